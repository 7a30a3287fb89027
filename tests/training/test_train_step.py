"""Steps of the loop, without its reports: however a batch is cut, in which arithmetic, with which parts at rest."""

import ctypes
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from patchstore import Store
from support.configs import TINY, with_weights
from swath.config import Config, LossConfig, PatchesConfig
from swath.models import network
from swath.training import loop
from swath.training.context import LocalContext
from swath.training.prepared import Prepared
from swath.training.setup import TrainingSetup

CPU = torch.device("cpu")


@pytest.mark.parametrize("loss", [
    LossConfig(cross_entropy=1, class_weights="inverse"), LossConfig(cross_entropy=0, focal=1),
    LossConfig(cross_entropy=0, dice=1), LossConfig(cross_entropy=0, jaccard=1), LossConfig(cross_entropy=0, tversky=1),
    LossConfig(cross_entropy=0, lovasz=1), LossConfig(cross_entropy=1, dice=1, target="one_vs_rest")],
    ids=lambda loss: "+".join(loss.terms) + ("" if loss.target == "softmax" else " one-vs-rest"))
def test_however_a_batch_is_cut_the_weights_are_the_same(store: Store, tmp_path: Path, loss: LossConfig) -> None:
    assert max(drift(store, tmp_path, loss, "group")) < 5e-3  # means over micro-batches: 0.3 to 0.5


def test_batch_normalisation_sees_how_a_batch_is_cut(store: Store, tmp_path: Path) -> None:
    found = drift(store, tmp_path, LossConfig(cross_entropy=1), "batch")
    print(f"4 x 4 and 16 x 1 differ from 1 x 16 by {found[0]:.2f} and {found[1]:.2f} of the way the weights went")
    assert min(found) > 0.1


def drift(store: Store, folder: Path, loss: LossConfig, norm: Literal["group", "batch"]) -> list[float]:
    """How far the weights are apart after ten steps of 16 patches, cut into four parts and into sixteen, from those of
    whole batches; over how far those went."""
    weights = []
    for micro_batch in (16, 4, 1):
        config = replace(
            TINY, loss=loss, patches=PatchesConfig(size=64, foreign="ignore"),
            # With TINY's encoder rounding grows tenfold at every step.
            model=replace(TINY.model, encoder="tu-test_resnet", norm=norm),
            train=replace(TINY.train, batch=16, micro_batch=micro_batch, megapixels=10 * 16 * 64 * 64 / 1e6,
                          report_every=100, ema=0, optimiser="sgd", lr=0.003))
        weights.append(flat(trained(config, store, folder)))
    moved = (weights[0] - flat(TrainingSetup(Prepared.of(config, store), LocalContext(folder, CPU)).start().net)).norm()
    return [float((weights[0] - other).norm() / moved) for other in weights[1:]]


def flat(net: network.Net) -> torch.Tensor:
    """All parameters in a row."""
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def trained(config: Config, store: Store, folder: Path) -> network.Net:
    """The network after a run's steps, without its reports. Labels are ignored unevenly: a patch from row to row."""
    job = TrainingSetup(Prepared.of(config, store), LocalContext(folder, CPU))
    state = job.start()
    train = job.network(state)
    for batch in job.loader.batches(0, job.steps):
        for number, labels_HW in enumerate(batch.labels_NHW):
            labels_HW[: number * 4] = store.ignore
        loop.train_step(job, state, train, batch)
    assert state.step == 10
    return state.net


def test_a_frozen_encoder_stays_as_it_is_until_it_thaws(store: Store, tmp_path: Path) -> None:
    config = replace(TINY, model=with_weights(replace(TINY.model, norm="batch"), tmp_path),
                     train=replace(TINY.train, freeze=0.5, megapixels=4 * 8 * 64 * 64 / 1e6, report_every=100))
    job = TrainingSetup(Prepared.of(config, store), LocalContext(tmp_path, CPU))
    state = job.start()
    train = job.network(state)

    def encoder() -> torch.Tensor:
        return torch.cat([tensor.flatten().float() for tensor in state.net.encoder.state_dict().values()])

    seen = [encoder()]
    for batch in job.loader.batches(0, 4):
        if state.step == job.unfreeze_step:
            train = job.network(state)
        head = state.net.net.segmentation_head[0].weight.detach().clone()
        loop.train_step(job, state, train, batch)
        assert not torch.equal(head, state.net.net.segmentation_head[0].weight)
        seen.append(encoder())
    assert [torch.equal(one, other) for one, other in pairwise(seen)] == [True, True, False, False]


def test_the_encoder_has_a_rate_of_its_own(store: Store, tmp_path: Path) -> None:
    config = replace(TINY, train=replace(TINY.train, encoder_lr=0.0, warmup=0, weight_decay=0))
    job = TrainingSetup(Prepared.of(config, store), LocalContext(tmp_path, CPU))
    state = job.start()
    encoder = [parameter.detach().clone() for parameter in state.net.encoder.parameters()]
    (batch,) = job.loader.batches(0, 1)
    loop.train_step(job, state, job.network(state), batch)
    assert all(torch.equal(*both) for both in zip(encoder, state.net.encoder.parameters(), strict=True))
    assert [group["lr"] for group in state.optimiser.param_groups] == [0.0, TINY.train.lr]
    every = sum(len(group["params"]) for group in state.optimiser.param_groups)
    assert every == sum(parameter.requires_grad for parameter in state.net.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_the_bits_give_about_the_same_loss(store: Store, tmp_path: Path, precision: str) -> None:
    losses: dict[str, float] = {}
    for name in ("fp32", precision):  # fp16 takes seconds a step on a CPU
        config = replace(TINY, patches=PatchesConfig(size=32, foreign="ignore"),
                         train=replace(TINY.train, batch=2, precision=name))  # type: ignore[arg-type]
        job = TrainingSetup(Prepared.of(config, store), LocalContext(tmp_path, CPU))
        state = job.start()
        (batch,) = job.loader.batches(0, 1)
        losses[name], _ = loop.train_step(job, state, job.network(state), batch)
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses[precision] != losses["fp32"]
    assert state.scaler.is_enabled() == (precision == "fp16")
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 64.0} if precision == "fp16" else {})
    with state.save(config, job.card, {}) as folder:
        again = TrainingSetup(Prepared.of(config, store), LocalContext(tmp_path, CPU, resume=Path(folder))).start()
    assert again.scaler.state_dict() == state.scaler.state_dict()


@pytest.mark.slow
def test_a_compiled_network_is_the_same_network(store: Store, tmp_path: Path) -> None:
    losses, nets = [], []
    for compiled in (False, True):
        job = TrainingSetup(Prepared.of(replace(TINY, train=replace(TINY.train, compile=compiled)), store),
                            LocalContext(tmp_path, CPU))
        state = job.start()
        train = job.network(state)
        losses.append([loop.train_step(job, state, train, batch)[0] for batch in job.loader.batches(0, 2)])
        nets.append(state.net.state_dict())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert nets[0].keys() == nets[1].keys()


PAGES = """
import resource
import torch
from swath.runtime import keep_memory

def step() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(mega, 1024, 1024) * 2 for mega in (1, 2, 3, 8, 4, 16)]
    [tensor * 2 for tensor in kept]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(sum(step() for _ in range(8)))
keep_memory()
print(sum(step() for _ in range(8)))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_memory_that_a_step_leaves_is_there_for_the_next() -> None:
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    fresh_pages, kept_pages = map(int, done.stdout.split())
    assert kept_pages < fresh_pages / 3
