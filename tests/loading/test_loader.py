"""The loader: the same batches whoever reads them, errors that say where, and processes that end with their parent."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

import patchstore
from patchstore import ReadError, Store
from swath.config import AugmentConfig, Config, PatchesConfig, SplitConfig
from swath.errors import LoaderError
from swath.loading import ring
from swath.loading.augment import Augment
from swath.loading.loader import Batch, Loader
from swath.loading.reader import read, seed_of
from swath.patches import planning

SIZE = 64


@pytest.fixture
def make(store: Store) -> Callable[..., Loader]:
    """Makes a loader of the store's train patches: make(readers=2, …)."""
    plan = planning.plan(store, Config(patches=PatchesConfig(size=SIZE)), "train")

    def make(**changes: object) -> Loader:
        settings = {"store": store, "plan": plan, "batch": 24, "seed": 3, "rank": 0, "world_size": 1, "augment": None,
                    "readers": 0, **changes}
        return Loader(**settings)  # type: ignore[arg-type]

    return make


def readers_of(process: int) -> list[psutil.Process]:
    """The reader processes that a process has."""
    return [child for child in psutil.Process(process).children(recursive=True)
            if any("swath.loading.reader" in part for part in child.cmdline())]


def ended(processes: list[psutil.Process], within_s: float = 10.0) -> bool:
    """Whether processes are gone, or go within a time."""
    return not psutil.wait_procs(processes, within_s)[1]


def contents(batch: Batch) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A batch's pixels and labels, copied: the loader fills its tensors anew."""
    return batch.images_NSBHW.numpy().copy(), batch.labels_NHW.numpy().copy()


@pytest.mark.parametrize(("readers", "workers"), [(1, 1), (3, 1), (0, 2), (2, 3)])
def test_batches_are_the_same_whoever_reads_them(make: Callable[..., Loader], store: Store, readers: int, workers: int
                                                 ) -> None:
    augment = Augment(AugmentConfig(pipeline="aerial"), size=SIZE, bands=store.bands, dtype=store.dtype)
    alone = [(*contents(batch), batch.ids.copy()) for batch in make(augment=augment).batches(2, 9)]
    assert alone[0][0].shape == (24, 1, 3, SIZE, SIZE)
    ranks = [make(augment=augment, readers=readers, rank=rank, world_size=workers).batches(2, 9)
             for rank in range(workers)]
    for (images, labels, ids), *shared in zip(alone, *ranks, strict=True):
        parts = [contents(batch) for batch in shared]
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), images)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), labels)
        np.testing.assert_array_equal(np.concatenate([batch.ids for batch in shared]), ids)


def test_a_batch_has_the_stores_pixels_and_costs_are_counted(make: Callable[..., Loader], store: Store) -> None:
    loader = make(readers=2)
    for batch in loader.batches(0, 3):
        images_NBHW, labels_NHW = store.read(batch.windows, SIZE)
        np.testing.assert_array_equal(batch.images_NSBHW[:, 0], images_NBHW)
        np.testing.assert_array_equal(batch.labels_NHW, labels_NHW)
    assert loader.costs.waiting_s > 0
    assert loader.costs.bytes_read > 3 * 24 * SIZE**2 / 10  # compressed


def test_foreign_labels_are_ignored_before_patches_are_varied(store: Store) -> None:
    config = Config(patches=PatchesConfig(size=96, foreign="ignore"), split=SplitConfig(by="block", block=128))
    plan = planning.plan(store, config, "train")
    loader = Loader(store=store, plan=plan, batch=len(plan), seed=0, rank=0, world_size=1, readers=2, augment=Augment(
        AugmentConfig(pipeline="flips"), size=96, bands=store.bands, dtype=store.dtype))
    batch = next(batches := loader.batches(0, 1))
    stored = store.read(plan.windows(batch.ids), 96)[1]
    images_NSBHW, labels_NHW = read(store, plan, batch.ids)
    assert 0.05 < (stored != labels_NHW).mean() < 0.9  # patches do reach over borders
    augment = loader.augment
    assert augment is not None
    augment.vary(images_NSBHW, labels_NHW, [seed_of(0, place) for place in range(len(plan))])
    np.testing.assert_array_equal(batch.images_NSBHW, images_NSBHW)
    np.testing.assert_array_equal(batch.labels_NHW, labels_NHW)
    batches.close()  # type: ignore[attr-defined]


def test_a_loader_left_early_leaves_no_process(make: Callable[..., Loader]) -> None:
    batches = make(readers=2).batches(0, 1000)
    next(batches)
    readers = readers_of(os.getpid())
    assert len(readers) == 2
    batches.close()  # type: ignore[attr-defined]
    assert ended(readers, 0)


def test_no_more_readers_than_patches(make: Callable[..., Loader]) -> None:
    batches = make(readers=5, batch=2).batches(0, 3)
    next(batches)
    assert len(readers_of(os.getpid())) == 2
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("readers", [0, 2])
def test_damage_is_named_whoever_reads_it(store_uri: str, tmp_path: Path, readers: int) -> None:
    uri = shutil.copytree(store_uri, tmp_path / "damaged.zarr")
    store = patchstore.open(uri)
    plan = planning.plan(store, Config(patches=PatchesConfig(size=SIZE)), "train")
    scene = store.scenes[plan.scenes[0]]
    shutil.rmtree(uri / scene.name / scene.version / "0" / "image" / "c")
    loader = Loader(store=store, plan=plan, batch=24, seed=0, rank=0, world_size=1, augment=None, readers=readers)
    with pytest.raises(ReadError, match=rf"scene {scene.name}, array 0/image, chunk .*: absent or damaged"):
        list(loader.batches(0, 20))
    assert not readers_of(os.getpid())


@pytest.mark.parametrize("ahead_s", [0, 1])
def test_a_reader_that_is_killed_is_an_error_that_says_so(make: Callable[..., Loader], ahead_s: float) -> None:
    batches = make(readers=2).batches(0, 1000)
    next(batches)
    time.sleep(ahead_s)  # readers are ahead where the device is slower: their last words are heard first
    os.kill(readers_of(os.getpid())[0].pid, signal.SIGKILL)
    with pytest.raises(LoaderError, match=r"reader \d \(process \d+\) was .* batch \d+ \(g\d_s\d row \d+ col \d+ side "
                                          r"64.*when it was ended by signal 9; was the machine out of memory\?"):
        list(batches)
    assert not readers_of(os.getpid())


def test_a_reader_that_hangs_is_an_error_that_says_where(make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
                                                         ) -> None:
    monkeypatch.setattr(ring, "_GRACE_S", 0.5)
    batches = make(readers=2, stuck_s=1.0).batches(0, 1000)
    next(batches)
    os.kill(readers_of(os.getpid())[1].pid, signal.SIGSTOP)
    with pytest.raises(LoaderError, match=r"no batch for 1 s \(cluster.stuck_s\): reader 1 \(process \d+\) was .* batch"
                                          r" \d+ \(g\d_s\d row \d+"):
        list(batches)
    assert not readers_of(os.getpid())


@pytest.mark.slow
def test_a_reader_that_hangs_with_a_full_pipe_is_an_error(make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
                                                          ) -> None:
    monkeypatch.setattr(ring, "_START_S", 8.0)  # the limit of sending too
    monkeypatch.setattr(ring, "_GRACE_S", 0.5)
    loader = make(readers=1, stuck_s=1.0)
    batches = loader.batches(0, 1000)
    next(batches)
    task, ids = loader.task(3)
    big = replace(task, views=tuple(tuple(replace(window, scene=window.scene * 10_000) for window in windows)
                                    for windows in task.views))
    monkeypatch.setattr(Loader, "task", lambda self, index: (replace(big, index=index, slot=index % 4), ids))
    os.kill(readers_of(os.getpid())[0].pid, signal.SIGSTOP)
    with pytest.raises(LoaderError, match=r"no batch for \d+ s .*: reader 0"):
        list(batches)
    assert not readers_of(os.getpid())


def test_a_store_that_has_changed_is_not_read_by_an_old_plan(make: Callable[..., Loader], store: Store) -> None:
    class Older(Store):
        fingerprint = "of another day"

    store.__class__ = Older  # what readers open is the store as it lies there now
    with pytest.raises(patchstore.StoreError, match="scenes have been ingested or removed since the run opened it"):
        next(make(readers=1).batches(0, 1))


def test_nothing_to_read_starts_no_reader(make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loader, "_filler", None)
    assert list(make(readers=2).batches(5, 5)) == []


SCRIPT = """
import sys, time, patchstore
from swath import patches
from swath.config import Config, PatchesConfig
from swath.loading.loader import Loader
store = patchstore.open(sys.argv[1])
plan = patches.plan(store, Config(patches=PatchesConfig(size=64)), "train")
loader = Loader(store=store, plan=plan, batch=8, seed=0, rank=0, world_size=1, augment=None, readers=2)
for batch in loader.batches(0, 10**6):
    if batch.index == 3:
        print("running", flush=True)
        if sys.argv[2] == "raise":
            raise RuntimeError("in the loop")
    if batch.index > 3:
        time.sleep(0.05)
"""


@pytest.mark.parametrize("end", ["SIGKILL", "SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow),
                                 pytest.param("raise", marks=pytest.mark.slow)])
def test_readers_end_with_their_loader_whatever_ends_it(store_uri: str, end: str) -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT, store_uri, end], text=True, start_new_session=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        if end == "raise":
            _, errors = process.communicate(timeout=60)
            assert "RuntimeError: in the loop" in errors
        else:
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == "running\n"
                readers = readers_of(process.pid)
                assert len(readers) == 2
                # Ctrl-C reaches the whole group, the others the loader's process alone
                (os.killpg if end == "SIGINT" else os.kill)(process.pid, getattr(signal, end))
                _, errors = process.communicate(timeout=60)
            finally:
                process.kill()  # leaving the block waits for its end
            assert ended(readers)
            assert errors.count("Traceback") == (1 if end == "SIGINT" else 0)
    time.sleep(0.1)
    assert not [p for p in psutil.process_iter(["cmdline"])
                if "swath.loading.reader" in " ".join(p.info["cmdline"] or [])
                and p.ppid() in (1, process.pid)]


@pytest.mark.gpu
def test_batches_cross_to_the_gpu_unchanged(make: Callable[..., Loader]) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    here = [contents(batch) for batch in make().batches(0, 8)]
    there = [(batch.images_NSBHW.cpu().numpy(), batch.labels_NHW.cpu().numpy())
             for batch in make(readers=2, device=device).batches(0, 8)]
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_the_benchmarks_parts_fit_the_loader(make: Callable[..., Loader], store: Store) -> None:
    from bench.bench_parts import LibraryFlips, MemoryStore  # here: albumentations takes seconds to import

    plan = make().plan
    memory = MemoryStore(store.uri, plan.windows(np.arange(30) % len(plan)), SIZE)
    (plain,) = (contents(batch) for batch in make(store=memory).batches(0, 1))
    (turned,) = (contents(batch) for batch in make(store=memory, augment=LibraryFlips()).batches(0, 1))
    for before, after in zip(plain, turned, strict=True):
        assert not np.array_equal(before, after)
        np.testing.assert_array_equal(np.sort(before.reshape(24, -1)), np.sort(after.reshape(24, -1)))
