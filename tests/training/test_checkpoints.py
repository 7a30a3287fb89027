"""Checkpoints on disk: which are kept, which are whole, what a run begins with, and saving between two reports."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import patchstore
from patchstore import Store
from swath.config import ClusterConfig, Config, LossConfig, ModelConfig, PatchesConfig, TrainConfig
from swath.models import checkpoint_files
from swath.models.checkpoint_files import CheckpointStore
from swath.say import Metrics
from swath.training import loop
from swath.training.context import LocalContext

CPU = torch.device("cpu")
TINY = Config(
    patches=PatchesConfig(size=64),
    model=ModelConfig(arch="unet", encoder="tu-mobilenetv3_small_050", norm="group"),
    loss=LossConfig(cross_entropy=1, dice=1),
    train=TrainConfig(megapixels=0.2, batch=8, micro_batch=8, report_every=0.1, optimiser="sgd", lr=1e-3, keep=2),
    cluster=ClusterConfig(readers=0),
)


@pytest.fixture
def make(tmp_path: Path) -> Callable[[], Path]:
    """Makes whole checkpoints, of a few bytes."""

    def make() -> Path:
        folder = tmp_path / "made"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in checkpoint_files.FILES:
            (folder / name).write_bytes(name.encode() * 100)
        checkpoint_files.seal(folder)
        return folder

    return make


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("kpx*"))


def name(megapixels: float) -> str:
    return f"kpx{round(megapixels * 1000):012d}"


def test_the_newest_and_the_best_are_kept(make: Callable[[], Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for megapixels, score in enumerate((0.5, 0.9, 0.1, None, 0.2), start=1):
        # Each by a process of its own, as after restarts
        CheckpointStore(folder, 2).add(make(), megapixels, score)
    assert names(folder) == [name(2), name(4), name(5)]


@given(scores=st.lists(st.none() | st.sampled_from([0.0, 0.25, 0.5, float("nan")]), min_size=1, max_size=8),
       keep=st.integers(1, 4))
def test_what_is_kept_follows_the_rule(scores: list[float | None], keep: int, tmp_path_factory: pytest.TempPathFactory
                                       ) -> None:
    folder, source = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("source")
    for file in checkpoint_files.FILES:
        (source / file).write_bytes(b"x")
    checkpoint_files.seal(source)
    keeper = CheckpointStore(folder, keep)
    for megapixels, score in enumerate(scores):
        keeper.add(source, megapixels, score)
    newest = set(range(len(scores))[-keep:])
    scored = [(s, -m) for m, s in enumerate(scores) if s is not None and s == s]
    best = {-max(scored)[1]} if scored else set()
    assert names(folder) == sorted(name(m) for m in newest | best)


def cut_state(folder: Path) -> None:
    state = folder / "state.pt"
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])


def flip_state(folder: Path) -> None:
    state = folder / "state.pt"
    state.write_bytes(bytes([state.read_bytes()[0] ^ 1]) + state.read_bytes()[1:])


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def cut_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def copy_half(folder: Path) -> None:
    (folder / "state.pt").unlink()


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize("damage", [cut_state, flip_state, lose_manifest, cut_manifest, copy_half, empty])
def test_what_is_not_whole_is_left_out_and_told(make: Callable[[], Path], tmp_path: Path,
                                               damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "run"
    keeper = CheckpointStore(folder, 2)
    whole = keeper.add(make(), 1, 0.5)
    damaged = keeper.add(make(), 2, 0.6)
    damage(damaged)
    begins = checkpoint_files.beginning(folder, "/another/checkpoint")
    assert begins.checkpoint == whole
    assert len(begins.damaged) == 1
    assert str(damaged) in begins.damaged[0]
    assert "not whole" in begins.damaged[0]
    third = CheckpointStore(folder, 2).add(make(), 3, 0.1)
    assert checkpoint_files.newest(folder) == third
    if damage is not flip_state:  # what is seen without reading it all does not push a whole one out
        assert {whole, third} == set(folder.glob("kpx*"))


def test_a_newer_one_that_is_damaged_takes_no_place(make: Callable[[], Path], tmp_path: Path) -> None:
    keeper = CheckpointStore(tmp_path / "run", 2)
    for megapixels, score in ((1, 0.1), (2, 0.2), (4, 0.9)):
        place = keeper.add(make(), megapixels, score)
    flip_state(place)  # the run goes on from 2, and is at 3 when it is saved
    assert keeper.add(make(), 3).is_dir()
    assert names(tmp_path / "run") == [name(2), name(3)]


@pytest.mark.parametrize("text", ["", "[]", '{"other": 1}'])
def test_a_spoilt_note_of_the_best_stops_no_run(make: Callable[[], Path], tmp_path: Path, text: str) -> None:
    keeper = CheckpointStore(tmp_path / "run", 1)
    keeper.add(make(), 1, 0.9)
    (tmp_path / "run" / "best.json").write_text(text)
    keeper.add(make(), 2, 0.5)
    assert names(tmp_path / "run") == [name(2)]


def test_a_best_that_is_cut_is_the_best_no_longer(make: Callable[[], Path], tmp_path: Path) -> None:
    keeper = CheckpointStore(tmp_path / "run", 1)
    cut_state(keeper.add(make(), 1, 0.9))
    keeper.add(make(), 2, 0.5)
    keeper.add(make(), 3, 0.1)
    assert names(tmp_path / "run") == [name(2), name(3)]


def test_the_order_in_which_a_run_begins(make: Callable[[], Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fresh = checkpoint_files.beginning(folder)
    assert (fresh.checkpoint, fresh.damaged) == (None, ())
    assert "initial weights" in fresh.said
    named = checkpoint_files.beginning(folder, "/another/checkpoint")
    assert named.checkpoint == Path("/another/checkpoint")
    assert "train.resume" in named.said
    own = CheckpointStore(folder, 1).add(make(), 1)
    begins = checkpoint_files.beginning(folder, "/another/checkpoint")
    assert begins.checkpoint == own
    assert "its own" in begins.said


def test_minutes_count_from_the_last_checkpoint(make: Callable[[], Path], tmp_path: Path) -> None:
    keeper = CheckpointStore(tmp_path / "run", 1, minutes=0.2 / 60)
    assert not keeper.is_due()
    time.sleep(0.21)
    assert keeper.is_due()
    keeper.add(make(), 1)
    assert not keeper.is_due()
    assert not CheckpointStore(tmp_path / "run", 1, minutes=0).is_due()


class Saving(LocalContext):
    """Saves after every step, and stops once so many megapixels are seen."""

    after = float("inf")
    saves = 0

    def save(self, checkpoint: Path, megapixels: float) -> None:
        super().save(checkpoint, megapixels)
        self.saves += 1

    def save_due(self) -> bool:
        return True

    def stop(self, megapixels: float) -> bool:
        return megapixels >= self.after


@pytest.fixture(scope="module")
def whole(store_uri: str, tmp_path_factory: pytest.TempPathFactory) -> loop.Run:
    return loop.fit(TINY, patchstore.open(store_uri), LocalContext(tmp_path_factory.mktemp("whole"), CPU))


@pytest.mark.parametrize("after", [0.06, 0.13])  # before the first report, and after it
def test_a_run_saved_between_reports_goes_on_as_if_undisturbed(whole: loop.Run, store: Store, tmp_path: Path,
                                                               after: float) -> None:
    context = Saving(tmp_path / "cut", CPU)
    context.after = after
    stopped = loop.fit(TINY, store, context)
    assert stopped.counts_RKQ is None
    assert stopped.megapixels == pytest.approx(after, abs=0.033)
    assert context.saves == {0.06: 2, 0.13: 3}[after]
    newest = checkpoint_files.newest(tmp_path / "cut")
    resumed = loop.fit(TINY, store, LocalContext(tmp_path / "cut", CPU, resume=newest))
    for key in ("train/loss", "train/miou", "val/loss", "val_part/miou"):
        np.testing.assert_allclose([m[key] for m in resumed.history], [m[key] for m in whole.history], rtol=1e-6)
    np.testing.assert_array_equal(resumed.counts_RKQ, whole.counts_RKQ)
    best = json.loads((tmp_path / "cut" / "best.json").read_text())
    assert best["score"] == max(m["val_part/miou"] for m in whole.history)


class CutAtTheEnd(LocalContext):
    """A context in which a run is killed while its whole split is scored."""

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:
        if "val/miou" in metrics:
            raise KeyboardInterrupt
        super().report(metrics, checkpoint)


def test_a_run_cut_during_its_last_score_has_only_that_to_do(whole: loop.Run, store: Store, tmp_path: Path
                                                             ) -> None:
    with pytest.raises(KeyboardInterrupt):
        loop.fit(TINY, store, CutAtTheEnd(tmp_path, torch.device("cpu")))
    newest = checkpoint_files.newest(tmp_path)
    assert newest is not None
    assert newest.name == name(whole.megapixels)
    told: list[Metrics] = []
    run = loop.fit(TINY, store, LocalContext(tmp_path, torch.device("cpu"), resume=newest, listeners=(told.append,)))
    np.testing.assert_array_equal(run.counts_RKQ, whole.counts_RKQ)
    assert run.metrics["train/loss"] == pytest.approx(whole.metrics["train/loss"])
    assert [metrics["val/miou"] for metrics in told] == [whole.metrics["val/miou"]]


def test_a_run_that_is_cut_at_once_has_nothing_to_save(store: Store, tmp_path: Path) -> None:
    context = Saving(tmp_path, CPU)
    context.after = 0.0
    run = loop.fit(replace(TINY, train=replace(TINY.train, megapixels=0.04)), store, context)
    assert (run.metrics, run.checkpoint, context.saves) == ({}, None, 0)
