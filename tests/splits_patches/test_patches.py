"""The plan: literal cases, properties, and brute force."""

import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import patchstore
from patchstore import CELL, Store
from support.paper_store import PaperStore, scene
from swath.config import Config, PatchesConfig
from swath.errors import DataError
from swath.loading import reader
from swath.patches import planning
from swath.patches.planning import PatchPlan
from swath.splits import division


def test_every_pixel_of_the_train_scenes_is_in_a_patch(store: Store) -> None:
    config = Config(patches=PatchesConfig(size=96))
    plan = planning.plan(store, config, "train")
    seen = {scene: np.zeros(store.scenes[scene].shape, bool) for scene in plan.scenes}
    for window in plan.windows(np.arange(len(plan))):
        seen[window.scene][window.row : window.row + window.side, window.col : window.col + window.side] = True
    assert all(covered.all() for covered in seen.values())


def test_a_patch_larger_than_the_scene_is_padded(store: Store) -> None:
    plan = planning.plan(store, Config(patches=PatchesConfig(size=640)), "train")
    images, labels = store.read(plan.windows([0]), 640)
    assert images.shape[-2:] == (640, 640)
    assert (labels == store.ignore).any()


def test_scales_of_a_mixture_are_all_planned(store: Store) -> None:
    config = Config(patches=PatchesConfig(size=64, scales=(1.0, 2.0, 4.0), combine="mixture"))
    plan = planning.plan(store, config, "train")
    assert set(plan.scale_P.tolist()) == {0, 1, 2}
    assert {w.side for w in plan.windows(np.arange(len(plan)))} == {64, 128, 256}


def test_no_patch_and_no_such_background_are_refused(store: Store) -> None:
    with pytest.raises(DataError, match="no class lava"):
        planning.plan(store, Config(patches=PatchesConfig(background=("lava",))), "train")
    names = tuple(c.name for c in store.classes)
    nothing = Config(patches=PatchesConfig(size=64, min_foreground=0.5, background=names))
    with pytest.raises(DataError, match=r"no train patch of 64 px at scale 1: 50 windows lie in train cells; 50 have "
                                        r"labels; 0 pass patches.min_foreground 0.5 \(the most that any has: 0\); "
                                        r"lower patches.min_foreground$"):
        planning.plan(store, nothing, "train")


def test_a_scale_without_patches_is_refused_for_training_alone() -> None:
    store = alike(1, (640, 640), random_counts(10, 2))
    train_IJ = np.broadcast_to(np.arange(10)[:, None] < 5, (10, 10))
    config = PatchesConfig(size=64, scales=(1.0, 8.0), combine="mixture")
    with pytest.raises(DataError, match=r"no train patch of 64 px at scale 8 is left.*leave it out of patches.scales"):
        plan_of(store, config, train_IJ)
    labels_IJ = np.where(train_IJ, 1, division.NONE).astype(np.uint8)
    labels = division.Split(labels=dict.fromkeys(store.scenes, labels_IJ))
    plan = planning.plan(store, Config(patches=config), "val", labels=labels)  # type: ignore[arg-type]
    assert "No val patch is left at scale 8." in plan.notes


def alike(scenes: int, shape: tuple[int, int], counts_IJK: NDArray[np.int64]) -> PaperStore:
    """Scenes of one shape and the same counts, and no pixels."""
    names = [f"s{i:06d}" for i in range(scenes)]
    return PaperStore([scene(name, shape) for name in names], cells=dict.fromkeys(names, counts_IJK),
                      names=tuple(f"c{k}" for k in range(counts_IJK.shape[2])))


def plan_of(store: PaperStore, config: PatchesConfig, train_IJ: NDArray[np.bool_] | None = None) -> PatchPlan:
    """The plan of scenes whose train cells are the same, by default all."""
    train_IJ = np.ones(next(iter(store.cells.values())).shape[:2], bool) if train_IJ is None else train_IJ
    labels = {name: np.where(train_IJ, 0, division.NONE).astype(np.uint8) for name in store.scenes}
    return planning.plan(store, Config(patches=config), "train", labels=division.Split(labels=labels))  # type: ignore[arg-type]


def random_counts(cells: int, classes: int, seed: int = 0) -> NDArray[np.int64]:
    """Counts of scenes of whole cells in which a tenth of the pixels have no label."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(classes, 0.3), (cells, cells))
    return np.floor(shares * CELL**2 * 0.9).astype(np.int64)


def test_scales_need_not_be_whole() -> None:
    plan = plan_of(alike(1, (2000, 2000), random_counts(32, 2)), PatchesConfig(size=512, scales=(1000 / 512,)))
    assert plan.side_SC.tolist() == [[1000]]
    assert plan.row_P.tolist() == [0, 0, 1000, 1000]
    assert (plan.level_SC.item(), plan.exact) == (0, 0)


def test_a_plan_tells_exact_counts_from_estimates() -> None:
    store = alike(1, (320, 320), random_counts(5, 3))
    aligned = plan_of(store, PatchesConfig(size=64))
    assert aligned.exact == 1
    np.testing.assert_allclose(aligned.class_pixels_SK[0], store.counts("s000000").sum(axis=(0, 1)))
    mixed = plan_of(store, PatchesConfig(size=64, scales=(1.0, 1.5), combine="mixture"))
    assert mixed.exact == pytest.approx(25 / (25 + 16))  # 96 px every 96: 0, 96, 192, 224
    coarse = plan_of(store, PatchesConfig(size=64, scales=(1.0, 2.0), combine="mixture"))
    assert coarse.exact == pytest.approx(25 / (25 + 9))  # at scale 2 a label is that of most of four pixels
    padded = plan_of(store, PatchesConfig(size=512))
    assert (len(padded), padded.exact) == (1, 1)


@pytest.mark.parametrize("balance", ["class", "sqrt", "c1", "c2+c0"])
def test_drawn_classes_are_those_of_the_weights(balance: str) -> None:
    config = PatchesConfig(size=64, scales=(1.0, 2.0), combine="mixture", balance=balance)
    plan = plan_of(alike(3, (320, 320), random_counts(5, 3)), config)
    assert plan.weight_P.dtype == np.float32
    assert plan.weight_P.mean() == pytest.approx(1)
    drawn_K, even_K = plan.drawn_class_pixels_SK.sum(axis=0), plan.class_pixels_SK.sum(axis=0)
    counts_IJK = random_counts(5, 3)
    by_hand = np.zeros((2, 3))  # windows of one and of two by two cells, at 0, 128, 192 px
    for scale, row, col, weight in zip(plan.scale_P, plan.row_P, plan.col_P, plan.weight_P, strict=True):
        i, j, n = row // CELL, col // CELL, 1 + scale
        by_hand[scale] += weight * counts_IJK[i:i + n, j:j + n].sum(axis=(0, 1)) / n**2
    np.testing.assert_allclose(plan.drawn_class_pixels_SK, by_hand, rtol=1e-5)
    if balance == "class":  # a drawn patch holds other classes too: nearer to each other, not alike
        assert np.ptp(drawn_K / drawn_K.sum()) < np.ptp(even_K / even_K.sum())
    if balance == "c1":
        assert drawn_K[1] / drawn_K.sum() > even_K[1] / even_K.sum()


def test_a_plan_that_is_empty_says_why() -> None:
    store = alike(2, (320, 320), random_counts(5, 2))
    stripes = np.tile([True, False, True, False, False], (5, 1))
    with pytest.raises(DataError, match=r"no window of 128 or 256 scene pixels fits into the train cells of 2 scenes"):
        plan_of(store, PatchesConfig(size=128, scales=(1.0, 2.0), combine="mixture"), stripes)
    with pytest.raises(DataError, match=r"50 windows lie in train cells; 50 have labels; 0 pass patches.max_ignored "
                                        r"0.05 \(the least that any has: 0.1\); raise patches.max_ignored$"):
        plan_of(store, PatchesConfig(size=64, max_ignored=0.05))
    with pytest.raises(DataError, match="no cell is in the train split"):
        plan_of(store, PatchesConfig(size=64), np.zeros((5, 5), bool))


def test_a_plan_notes_what_it_cannot_reach() -> None:
    store = alike(2, (640, 640), random_counts(10, 2))  # levels 0 to 3
    fine = plan_of(store, PatchesConfig(size=32, scales=(8.0, 16.0), combine="mixture"))
    assert fine.level_SC.tolist() == [[3, 3], [3, 3]]
    assert fine.notes == ("Scale 16 is coarser than the levels of 2 of 2 train scenes; their coarsest is read and "
                          "resampled.",)
    narrow = np.ones((10, 10), bool)
    narrow[:, 8] = False  # leaves a stripe of one cell
    lost = 2 * int(store.counts("s000000")[:, 9].sum())
    assert plan_of(store, PatchesConfig(size=128), narrow).notes[0].startswith(f"{lost:,} of ")
    assert "pixels between patches are in none" in plan_of(store, PatchesConfig(size=64, stride=96)).notes[0]
    relevant = plan_of(store, PatchesConfig(size=64, min_not_lowest=0.3))
    assert relevant.notes == (f"Of 200 train windows 200 have labels; {len(relevant)} pass patches.min_not_lowest "
                              "0.3.",)


@settings(deadline=None, max_examples=25)
@given(scale=st.sampled_from([0.5, 1.0, 1.7, 2.0, 4.0]), size=st.sampled_from([32, 48]), seed=st.integers(0, 99))
def test_foreign_labels_are_ignored_and_own_ones_are_not(store_uri: str, scale: float, size: int, seed: int) -> None:
    store, rng = patchstore.open(store_uri), np.random.default_rng(seed)
    labels = {name: np.where(rng.random(store.counts(name).shape[:2]) < 0.4, 0, division.NONE).astype(np.uint8)
              for name in list(store.scenes)[:2]}
    config = Config(patches=PatchesConfig(size=size, scales=(scale,), foreign="ignore"))
    plan = planning.plan(store, config, "train", labels=division.Split(labels=labels))
    ids = rng.permutation(len(plan))[:40]
    windows = plan.windows(ids)
    _, read = store.read(windows, size)
    _, masked = reader.read(store, plan, ids)
    step = 1 << int(plan.level_SC[0, 0])
    for window, before, after in zip(windows, read, masked, strict=True):
        side = -(-window.side // step)  # pixels of the level, from the corner on its grid
        centre = (np.arange(size) * 2 + 1) * side // (2 * size) * step
        rows, cols = (at // step * step + centre for at in (window.row, window.col))
        own = np.zeros((size, size), bool)
        for (i, row), (j, col) in product(enumerate(rows), enumerate(cols)):
            if row < 320 and col < 320:
                own[i, j] = labels[window.scene][row // CELL, col // CELL] == 0
        np.testing.assert_array_equal(after, np.where(own, before, store.ignore))
    for name, cells in labels.items():  # every own labelled pixel is in a window
        seen = np.zeros((320, 320), bool)
        for window in plan.windows(np.arange(len(plan))):
            if window.scene == name:
                seen[window.row:window.row + window.side, window.col:window.col + window.side] = True
        own = (cells == 0).repeat(CELL, 0).repeat(CELL, 1)
        assert (seen | (store.region(name, "mask", (0, 320), (0, 320)) == store.ignore))[own].all()


def test_a_plan_of_whole_windows_has_nothing_to_mask(store: Store) -> None:
    plan = planning.plan(store, Config(patches=PatchesConfig(size=64)), "train")
    labels = store.read(plan.windows([0, 1]), 64)[1]
    np.testing.assert_array_equal(reader.read(store, plan, [0, 1])[1], labels)


@pytest.mark.parametrize("balance", ["none", pytest.param("class", marks=pytest.mark.slow)])
def test_a_thousand_scenes_take_few_bytes_a_patch(balance: str) -> None:
    for scenes in (500, 1000):
        store, began = alike(scenes, (5000, 5000), random_counts(79, 5)), time.perf_counter()
        plan = plan_of(store, PatchesConfig(size=256, balance=balance))
        seconds = time.perf_counter() - began
        arrays = [plan.scene_P, plan.row_P, plan.col_P, plan.scale_P, plan.weight_P]
        size = sum(array.nbytes for array in arrays if array.strides[0]) / len(plan)
        print(f"{scenes} scenes, balance {balance}: {len(plan):,} patches of {size:g} bytes in {seconds:.2f} s, "
              f"{1e6 * seconds / len(plan):.2f} µs a patch")
        assert len(plan) == scenes * 20**2
        assert size == (17 if balance == "class" else 13)  # as PatchPlan says
