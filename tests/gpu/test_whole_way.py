"""The whole way on a CUDA device: a run of the defaults there is trained, scored and mapped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from patchstore import Store
from support.configs import TINY
from swath.config import ClusterConfig
from swath.experiments import evaluation, experiment
from swath.maps import apply
from swath.scoring import metrics
from swath.splits import division
from swath.training.context import LocalContext
from swath.training.prepared import Prepared
from swath.training.setup import TrainingSetup

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_a_run_on_a_gpu_is_trained_scored_and_mapped(store: Store, dataset: Path, tmp_path: Path) -> None:
    config = replace(
        TINY, data=replace(TINY.data, store=store.uri), cluster=ClusterConfig(device="cuda", readers=1),
        train=replace(TINY.train, precision="bf16", channels_last=True, micro_batch="auto", megapixels=0.5, ema=0))
    device = torch.device("cuda")
    setup = TrainingSetup(Prepared.of(config, store), LocalContext(tmp_path / "beginning", device))
    state = setup.start()
    assert setup.micro.most == config.train.batch  # patches of 64 px fit all at once
    convolution = next(p for p in state.net.parameters() if p.ndim == 4 and min(p.shape) > 1)
    assert convolution.is_contiguous(memory_format=torch.channels_last)

    outcome = experiment.train(config, tmp_path)
    losses = [report["train/loss"] for report in outcome.run.history]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    run = str(outcome.run.checkpoint)
    score = evaluation.evaluate(run, evaluation.EvaluationRequest(workdir=tmp_path), device="cuda").score
    np.testing.assert_array_equal(score.counts.array, outcome.run.counts_RKQ)

    split, K = division.divide(store, config.split), len(store.classes)
    counts_KK = np.zeros((K, K), np.int64)
    for scene, cells in split.scenes("val"):
        assert cells.all()
        written, = apply.predict(apply.Request(
            run=run, source=str(dataset / "images" / f"{scene}.tif"), output=tmp_path / f"{scene}.tif",
            workdir=tmp_path, cluster=ClusterConfig(device="cuda"))).maps
        with rasterio.open(written.output) as mapped, rasterio.open(dataset / "masks" / f"{scene}.tif") as mask:
            counts_KK += metrics.confusion(mask.read(1), mapped.read(1), K, store.ignore)
    # Other windows share a batch in a map: bfloat16 may round a near-tie to the other class.
    assert abs(counts_KK - score.counts.sum().confusion).sum() / 2 <= 0.001 * counts_KK.sum()
