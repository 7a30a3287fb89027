"""The loop in one process, without Ray: what it reports, how it resumes, and that cutting a batch changes nothing."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from patchstore import Store
from swath.config import (
    AugmentConfig,
    ClusterConfig,
    Config,
    LossConfig,
    ModelConfig,
    PatchesConfig,
    ScoreConfig,
    SplitConfig,
    TrainConfig,
)
from swath.errors import CheckpointError, DataError, TrainingError
from swath.models import checkpoint, inference, network
from swath.say import Metrics
from swath.scoring import counting, metrics
from swath.splits import division
from swath.training import loop
from swath.training.context import LocalContext
from swath.training.schedule import ema_decay
from swath.training.state import State

CPU = torch.device("cpu")
TINY = Config(
    patches=PatchesConfig(size=64),
    augment=AugmentConfig(pipeline="aerial"),
    model=ModelConfig(arch="linknet", encoder="tu-mobilenetv3_small_050", norm="group"),
    loss=LossConfig(cross_entropy=1, dice=1),
    train=TrainConfig(megapixels=0.26, batch=8, micro_batch=8, report_every=0.09, keep=5, ema=0.05),
    score=ScoreConfig(overlap=0),
    cluster=ClusterConfig(readers=0),  # a process for each of these runs would take longer than the run
)


class Stopping(LocalContext):
    """A context that asks to stop once so many megapixels are seen."""

    def __init__(self, folder: Path, after: float, **rest: object) -> None:
        super().__init__(folder, CPU, **rest)  # type: ignore[arg-type]
        self._after = after

    def stop(self, megapixels: float) -> bool:
        return megapixels >= self._after


@pytest.fixture(scope="module")
def finished(store_uri: str, tmp_path_factory: pytest.TempPathFactory) -> loop.Run:
    import patchstore

    return loop.fit(TINY, patchstore.open(store_uri), LocalContext(tmp_path_factory.mktemp("run"), CPU, keep=5))


def test_a_run_reports_by_megapixels_and_ends_with_the_whole_score(finished: loop.Run) -> None:
    assert [round(m["megapixels"], 3) for m in finished.history] == [0.098, 0.197, 0.262]
    assert finished.megapixels == pytest.approx(8 * 8 * 64 * 64 / 1e6)
    assert "val/miou" in finished.metrics
    assert "val/miou" not in finished.history[0]
    assert {"train/loss", "val/loss", "train/miou", "val_part/miou", "val_part/miou_se"} <= finished.history[0].keys()
    assert finished.history[-1]["train/loss"] < finished.history[0]["train/loss"]


def test_the_score_is_that_of_the_saved_network(finished: loop.Run, store: Store) -> None:
    assert finished.checkpoint is not None
    net = checkpoint.load(finished.checkpoint).network(CPU)
    split = division.divide(store, TINY.split)
    source = counting.network_source(store, inference.network_forward(net), TINY, CPU)
    result = counting.evaluate(store, split, "val", source, TINY)
    np.testing.assert_array_equal(result.counts.array, finished.counts_RKQ)
    assert result.miou == finished.metrics["val/miou"]
    assert result.pixels == division.class_pixels(store, split, "val").sum()


def test_the_sample_of_everything_is_the_whole_score(finished: loop.Run, store: Store) -> None:
    assert finished.checkpoint is not None
    forward = inference.network_forward(checkpoint.load(finished.checkpoint).network(CPU))
    everything = replace(TINY, score=replace(TINY.score, part=1e6))
    split = division.divide(store, TINY.split)
    sample = counting.sample(store, split, "val", everything)
    source = counting.network_source(store, forward, TINY, CPU)
    counts = counting.count(store, split, "val", sample.regions, source)
    whole = counting.evaluate(store, split, "val", source, TINY)
    part = metrics.part_score(metrics.Counts(counts).scored("wrong"), np.array([r.stratum for r in sample.regions]),
                              sample.population_h, whole.present_K)
    np.testing.assert_array_equal(metrics.Counts(counts).sum().confusion, whole.confusion)
    assert part.miou == pytest.approx(whole.miou, abs=1e-12)
    assert part.se == 0


def test_a_resumed_run_is_the_same_run(finished: loop.Run, store: Store, tmp_path: Path) -> None:
    begun = loop.fit(TINY, store, Stopping(tmp_path, after=0.12, keep=5))
    assert begun.megapixels == pytest.approx(0.131072)
    assert begun.counts_RKQ is None
    read_ahead = replace(TINY, cluster=ClusterConfig(readers=2))
    resumed = loop.fit(read_ahead, store, LocalContext(tmp_path, CPU, keep=5, resume=begun.checkpoint))
    assert resumed.history[-1]["val/miou"] == finished.history[-1]["val/miou"]
    assert resumed.history[-1]["val/loss"] == pytest.approx(finished.history[-1]["val/loss"], rel=1e-6)
    np.testing.assert_array_equal(resumed.counts_RKQ, finished.counts_RKQ)


@pytest.mark.parametrize(("norm", "said"), [
    ("group", []),
    ("batch", ["from step 4 on micro_batch is 4, not 8; the run is not the same as one in which it stays"])])
def test_a_run_that_is_cut_otherwise_after_a_resume_is_marked(
        store: Store, tmp_path: Path, norm: Literal["group", "batch"], said: list[str]) -> None:
    config = replace(TINY, model=replace(TINY.model, norm=norm))
    begun = loop.fit(config, store, Stopping(tmp_path, after=0.12))
    notes: list[str] = []
    loop.fit(replace(config, train=replace(config.train, micro_batch=4)), store,
             Stopping(tmp_path, after=0.15, resume=begun.checkpoint, note=notes.append))
    assert notes == said


@pytest.mark.parametrize("batch", [2, 8])
def test_the_moving_average_has_a_half_life_in_megapixels(batch: int) -> None:
    config, step_megapixels = replace(TINY.train, ema=1.0, batch=batch), batch * 64 * 64 / 1e6
    zero, one = (torch.nn.Sequential(torch.nn.BatchNorm2d(1)) for _ in range(2))
    for net, value in ((zero, 0.0), (one, 1.0)):
        for tensor in net.state_dict().values():
            tensor.fill_(value)
    state = State(net=one, average=zero, optimiser=torch.optim.SGD(one.parameters()),  # type: ignore[arg-type]
                  scaler=torch.amp.GradScaler("cpu", enabled=False))
    steps = round(1 / step_megapixels)
    for step in range(10_000, 10_000 + steps):
        state.follow(zero, ema_decay(config, step, step_megapixels))  # type: ignore[arg-type]
    for name, tensor in zero.state_dict().items():  # buffers too; a counter is copied
        assert float(tensor) == pytest.approx(1 if name.endswith("tracked") else 0.5, abs=0.01)
    assert ema_decay(config, 0, step_megapixels) == 0.1


def test_the_moving_average_is_what_is_used(finished: loop.Run) -> None:
    assert finished.checkpoint is not None
    saved = checkpoint.load(finished.checkpoint)
    used = saved.network(CPU).state_dict()
    assert all(torch.equal(used[name], tensor) for name, tensor in saved.state["average"].items())
    assert any(not torch.equal(used[name], tensor) for name, tensor in saved.state["net"].items())


def test_a_run_cut_off_before_its_last_report_tells_it(finished: loop.Run, store: Store, tmp_path: Path) -> None:
    reports: list[Metrics] = []
    context = LocalContext(tmp_path, CPU, resume=finished.checkpoint, listeners=(reports.append,))
    run = loop.fit(TINY, store, context)
    assert reports == [finished.metrics]
    np.testing.assert_array_equal(run.counts_RKQ, finished.counts_RKQ)


def test_cutting_the_batch_does_not_change_the_losses(finished: loop.Run, store: Store, tmp_path: Path) -> None:
    cut = replace(TINY, train=replace(TINY.train, micro_batch=3))
    run = loop.fit(cut, store, LocalContext(tmp_path, CPU))
    np.testing.assert_allclose([m["train/loss"] for m in run.history], [m["train/loss"] for m in finished.history],
                               rtol=1e-3)
    assert run.history[0]["train/loss"] == pytest.approx(finished.history[0]["train/loss"], rel=1e-4)


def test_ground_that_was_trained_on_is_not_scored(finished: loop.Run, store: Store, tmp_path: Path) -> None:
    from swath.experiments import evaluation  # here: the last test sees that the rest of this module needs no MLflow

    assert finished.checkpoint is not None
    saved = checkpoint.load(finished.checkpoint)
    trained = next(scene.group for scene in store.scenes.values() if scene.fingerprint in saved.state["trained"])
    others = sorted({scene.group for scene in store.scenes.values()} - {trained})
    redrawn = replace(saved.config, split=SplitConfig(val=(others[0],), test=(trained,)))
    checkpoint.save(tmp_path, saved.state, redrawn, saved.card)
    with pytest.raises(DataError, match="the model was trained on it"):
        evaluation.evaluate(str(tmp_path), evaluation.Wanted(split="test", workdir=tmp_path), device="cpu")


def test_a_damaged_checkpoint_is_refused(finished: loop.Run, tmp_path: Path) -> None:
    assert finished.checkpoint is not None
    for name in ("state.pt", "card.json", "config.json", "manifest.json"):
        copy = tmp_path / name
        shutil.copytree(finished.checkpoint, copy)
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 0xFF
        (copy / name).write_bytes(bytes(data))
        with pytest.raises(CheckpointError, match=name.split(".")[0]):
            checkpoint.load(copy)


def test_the_newest_checkpoint_is_a_whole_one(finished: loop.Run, tmp_path: Path) -> None:
    assert finished.checkpoint is not None
    shutil.copytree(finished.checkpoint, tmp_path / "kpx000000000001")
    torn = Path(shutil.copytree(finished.checkpoint, tmp_path / "kpx000000000002"))
    (torn / "state.pt").write_bytes((torn / "state.pt").read_bytes()[:-1])
    assert checkpoint.newest(tmp_path) == tmp_path / "kpx000000000001"
    shutil.rmtree(tmp_path / "kpx000000000001")
    assert checkpoint.newest(tmp_path) is None


@pytest.mark.parametrize("other", [
    replace(TINY, patches=PatchesConfig(size=96)),
    replace(TINY, train=replace(TINY.train, batch=4)),
    replace(TINY, split=SplitConfig(seed=1)),
])
def test_a_checkpoint_of_another_run_is_refused(finished: loop.Run, store: Store, tmp_path: Path, other: Config
                                                ) -> None:
    with pytest.raises(CheckpointError, match="another configuration"):
        loop.fit(other, store, LocalContext(tmp_path, CPU, resume=finished.checkpoint))


def test_a_loss_that_is_not_finite_stops_the_run(store: Store, tmp_path: Path) -> None:
    config = replace(TINY, train=replace(TINY.train, optimiser="sgd", lr=1e30, clip=0, warmup=0))
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+ .* row \d+"):
        loop.fit(config, store, LocalContext(tmp_path, CPU))


def test_a_mixture_of_scales_trains_and_predicts(store: Store, tmp_path: Path) -> None:
    config = replace(TINY, patches=PatchesConfig(size=64, scales=(1.0, 2.0), combine="mixture"),
                     train=replace(TINY.train, megapixels=0.1))
    reports: list[Metrics] = []
    run = loop.fit(config, store, LocalContext(tmp_path, CPU, listeners=(reports.append,)))
    assert np.isfinite(run.metrics["val/miou"])
    assert reports[-1] == run.metrics


def test_the_loop_imports_no_ray_and_no_mlflow(store_uri: str, tmp_path: Path) -> None:
    code = f"""
import sys, torch, patchstore
from pathlib import Path
from dataclasses import replace
from swath import loop
from swath.context import LocalContext
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_loop import TINY
config = replace(TINY, train=replace(TINY.train, megapixels=0.05))
run = loop.fit(config, patchstore.open({store_uri!r}), LocalContext(Path({str(tmp_path)!r}), torch.device("cpu")))
assert run.metrics["megapixels"] > 0
print([name for name in ("ray", "mlflow") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().splitlines()[-1] == "[]"


class Scarce(LocalContext):
    """A context whose device holds so many patches at once; what the loop says of it is kept."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.said: list[str] = []
        super().__init__(folder, CPU, note=self.said.append)
        forward = network.Net.forward

        def short(net: network.Net, images_NSBHW: torch.Tensor) -> torch.Tensor:
            if net.training and len(images_NSBHW) > room:
                raise torch.OutOfMemoryError("no room")
            return forward(net, images_NSBHW)

        monkeypatch.setattr(network.Net, "forward", short)


def test_running_out_of_memory_changes_no_loss(finished: loop.Run, store: Store, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    context = Scarce(tmp_path, monkeypatch, room=3)
    run = loop.fit(TINY, store, context)
    np.testing.assert_allclose([m["train/loss"] for m in run.history], [m["train/loss"] for m in finished.history],
                               rtol=1e-3)
    assert [m["train/micro_batch"] for m in run.history] == [2, 2, 2]
    assert context.said == [f"out of memory at step 0 with {n} patches at once: {n // 2} from there on" for n in (8, 4)]


def test_running_out_of_memory_with_batch_normalisation_marks_the_run(store: Store, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    context = Scarce(tmp_path, monkeypatch, room=4)
    config = replace(TINY, model=replace(TINY.model, norm="batch"), train=replace(TINY.train, megapixels=0.04))
    loop.fit(config, store, context)
    (said,) = context.said
    assert "4 from there on; batch normalisation sees as many, so the run is not the same" in said


def test_a_device_that_holds_no_patch_ends_the_run(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                   ) -> None:
    with pytest.raises(TrainingError, match="out of memory: the device does not hold 1 of these patches"):
        loop.fit(TINY, store, Scarce(tmp_path, monkeypatch, room=0))


def with_weights(model: ModelConfig, folder: Path) -> ModelConfig:
    """The model with its encoder's weights from a file that is made here."""
    net = network.build(model, network.DataTraits(bands=3, classes=2, mean_B=np.zeros(3), std_B=np.ones(3)))
    torch.save(net.encoder.state_dict(), folder / "encoder.pt")
    return replace(model, weights=str(folder / "encoder.pt"))


def test_a_run_resumed_while_its_encoder_is_frozen_is_the_same_run(store: Store, tmp_path: Path) -> None:
    config = replace(TINY, model=with_weights(TINY.model, tmp_path), train=replace(TINY.train, freeze=0.6))
    whole = loop.fit(config, store, LocalContext(tmp_path / "whole", CPU, keep=5))
    begun = loop.fit(config, store, Stopping(tmp_path / "cut", after=0.06, keep=5))
    resumed = loop.fit(config, store, LocalContext(tmp_path / "cut", CPU, keep=5, resume=begun.checkpoint))
    assert resumed.history[-1]["val/loss"] == pytest.approx(whole.history[-1]["val/loss"], rel=1e-6)
