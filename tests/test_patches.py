"""Splits, plans and the order: literal cases, properties, and brute force."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from patchstore import CELL, Store
from swath import certificate, order, patches
from swath import split as splits
from swath.config import Config, PatchesConfig, SplitConfig
from swath.errors import DataError
from swath.patches import PatchPlan


def counts_of(mask_HW: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Counts by cell, the slow way."""
    cells = [-(-n // CELL) for n in mask_HW.shape]
    counts = np.zeros((*cells, classes), np.int64)
    for i in range(cells[0]):
        for j in range(cells[1]):
            piece = mask_HW[i * CELL : (i + 1) * CELL, j * CELL : (j + 1) * CELL]
            counts[i, j] = np.bincount(piece[piece < classes], minlength=classes)
    return counts


@settings(deadline=None, max_examples=60)
@given(height=st.integers(1, 300), width=st.integers(1, 300), size=st.integers(8, 160), stride=st.integers(1, 200),
       scale=st.sampled_from([1.0, 1.5, 2.0]), seed=st.integers(0, 99))
def test_patches_are_those_whose_window_lies_in_the_cells(height: int, width: int, size: int, stride: int,
                                                          scale: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.integers(0, 3, (height, width)).astype(np.uint8)
    counts = counts_of(mask, 3)
    cells = generator.random(counts.shape[:2]) < 0.8
    config = PatchesConfig(size=size, scales=(scale,), stride=stride)
    found = patches._scene_patches(0, 0, (height, width), cells, counts, config, np.ones(3, bool), 0.0)

    side, step = round(size * scale), max(1, round(stride * scale))
    inside = cells.repeat(CELL, 0).repeat(CELL, 1)[:height, :width]
    expected = [(0, row, col, 0) for row in _positions(height, side, step) for col in _positions(width, side, step)
                if inside[row : row + side, col : col + side].all()]
    assert [tuple(p) for p in found.tolist()] == expected


def _positions(length: int, side: int, step: int) -> list[int]:
    last = max(0, length - side)
    return sorted({*range(0, last, step), last})


def test_relevance_is_exact_on_the_grid() -> None:
    mask = np.zeros((128, 192), np.uint8)
    mask[:64, 64:128] = 1  # one cell of foreground
    config = PatchesConfig(size=64, min_foreground=0.5, background=("field",))
    found = patches._scene_patches(0, 0, (128, 192), np.ones((2, 3), bool), counts_of(mask, 2), config,
                                   np.array([False, True]), 0.5)
    assert found.tolist() == [[0, 0, 64, 0]]


def test_every_pixel_of_the_train_scenes_is_in_a_patch(store: Store) -> None:
    config = Config(patches=PatchesConfig(size=96))
    plan = patches.plan(store, config, "train")
    seen = {scene: np.zeros(store.scenes[scene].shape, bool) for scene in plan.scenes}
    for window in plan.windows(np.arange(len(plan))):
        seen[window.scene][window.row : window.row + window.side, window.col : window.col + window.side] = True
    assert all(covered.all() for covered in seen.values())


def test_a_patch_larger_than_the_scene_is_padded(store: Store) -> None:
    plan = patches.plan(store, Config(patches=PatchesConfig(size=640)), "train")
    images, labels = store.read(plan.windows([0]), 640)
    assert images.shape[-2:] == (640, 640)
    assert (labels == store.ignore).any()


def test_scales_of_a_mixture_are_all_planned(store: Store) -> None:
    config = Config(patches=PatchesConfig(size=64, scales=(1.0, 2.0, 4.0), combine="mixture"))
    plan = patches.plan(store, config, "train")
    assert set(plan.scale_P.tolist()) == {0, 1, 2}
    assert {w.side for w in plan.windows(np.arange(len(plan)))} == {64, 128, 256}


def test_no_patch_and_no_such_background_are_refused(store: Store) -> None:
    with pytest.raises(DataError, match="no class lava"):
        patches.plan(store, Config(patches=PatchesConfig(background=("lava",))), "train")
    names = tuple(c.name for c in store.classes)
    nothing = Config(patches=PatchesConfig(size=64, min_foreground=0.5, background=names))
    with pytest.raises(DataError, match="no train patch of 64 px"):
        patches.plan(store, nothing, "train")


def test_groups_are_never_divided(store: Store) -> None:
    split = splits.divide(store, SplitConfig())
    by_group: dict[str, set[int]] = {}
    for name, scene in store.scenes.items():
        by_group.setdefault(scene.group, set()).update(np.unique(split.labels[name]).tolist())
    assert all(len(labels) == 1 for labels in by_group.values())
    assert set.union(*by_group.values()) == {0, 1, 2}


def test_named_groups_and_their_refusals(store: Store) -> None:
    split = splits.divide(store, SplitConfig(val=("g0",), test=("g1",)))
    assert {store.scenes[s].group for s, _ in split.scenes("val")} == {"g0"}
    with pytest.raises(DataError, match=r"split.val: no group 'g9'"):
        splits.divide(store, SplitConfig(val=("g9",)))
    with pytest.raises(DataError, match="train split has no labelled pixel"):
        splits.divide(store, SplitConfig(val=("g0",), test=("g1", "g2")))


def test_a_published_list_may_divide_groups_and_leave_scenes_out(store: Store) -> None:
    names = sorted(store.scenes)  # g0_s0, g0_s1, g1_s0, …
    config = SplitConfig(by="scene", train=(names[0],), val=(names[1],), test=(names[2],))
    split = splits.divide(store, config)
    assert [[scene for scene, _ in split.scenes(name)] for name in splits.SPLITS] == [[n] for n in names[:3]]
    assert all((split.labels[name] == splits.NONE).all() for name in names[3:])
    certified = certificate.certify(store, split)
    assert certified.pairs["train-val"].distance == 0  # scenes of one group adjoin, and the certificate says so
    assert (certified.pairs["train-test"].distance or 0) > 100
    rest = splits.divide(store, SplitConfig(by="scene", val=(names[1],), test=(names[2],)))
    assert [scene for scene, _ in rest.scenes("train")] == [names[0], *names[3:]]
    with pytest.raises(DataError, match=r"split.train: no scene 'g0_s7' in the store; did you mean 'g0_s"):
        splits.divide(store, SplitConfig(by="scene", train=("g0_s7",), val=("g1_s0",), test=("g2_s0",)))
    store.scenes[names[1]] = replace(store.scenes[names[1]], has_mask=False)
    with pytest.raises(DataError, match=f"split.val: the scene '{names[1]}' has no mask"):
        splits.divide(store, config)


def test_statistics_come_from_train_cells_alone(store: Store) -> None:
    split = splits.divide(store, SplitConfig(val=("g0",), test=("g1",)))
    mean_B, std_B = splits.band_statistics(store, split)
    pixels = np.concatenate([store.region(s, "image", (0, store.scenes[s].shape[0]), (0, store.scenes[s].shape[1]))
                             .reshape(store.bands, -1) for s, _ in split.scenes("train")], axis=1).astype(np.float64)
    np.testing.assert_allclose(mean_B, pixels.mean(axis=1))
    np.testing.assert_allclose(std_B, pixels.std(axis=1))


def test_the_certificate_is_clean_by_group_and_finds_a_leak(store: Store) -> None:
    split = splits.divide(store, SplitConfig())
    clean = certificate.certify(store, split)
    assert clean.clean
    assert clean.pairs["train-test"].unit == "crs"
    assert (clean.pairs["train-test"].distance or 0) > 100  # groups lie kilometres apart
    scene, cells = next(split.scenes("train"))
    half = split.labels[scene].copy()
    half[:, : cells.shape[1] // 2] = splits.SPLITS.index("test")
    leak = certificate.certify(store, splits.Split(labels={**split.labels, scene: half}))
    assert leak.pairs["train-test"].distance == 0


def plan_of(count: int, weights: NDArray[np.float64] | None = None) -> PatchPlan:
    zeros = np.zeros(count, np.int32)
    return PatchPlan(size=8, scales=(1.0,), scenes=("s",), scene_P=zeros, row_P=zeros, col_P=zeros, scale_P=zeros,
                     weight_P=np.ones(count) if weights is None else weights)


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 50), batch=st.integers(1, 24), seed=st.integers(0, 9))
def test_every_patch_is_drawn_once_an_epoch(count: int, batch: int, seed: int) -> None:
    plan = plan_of(count)
    stream = np.concatenate([order.batch(plan, seed, 0, k, batch) for k in range(-(-3 * count // batch))])
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))
        begun = order.batch(plan, seed, epoch, 0, min(batch, count))
        assert begun.tolist() == stream[epoch * count :][: len(begun)].tolist()


@given(share=st.integers(1, 8), workers=st.sampled_from([1, 2, 4, 8]))
def test_ranks_divide_the_batch_among_them(share: int, workers: int) -> None:
    ids = order.batch(plan_of(100), 0, 0, 3, share * workers)
    parts = [order.share(ids, rank, workers) for rank in range(workers)]
    assert np.concatenate(parts).tolist() == ids.tolist()
    assert {len(part) for part in parts} == {share}


def test_epochs_and_seeds_differ_and_weights_count() -> None:
    plan = plan_of(200)
    first, second = order.batch(plan, 0, 0, 0, 200), order.batch(plan, 0, 1, 0, 200)
    assert (first != second).any()
    assert (first != order.batch(plan, 1, 0, 0, 200)).any()
    weighted = order.batch(plan_of(4, np.array([0.0, 1, 1, 2])), 0, 0, 0, 4000)
    np.testing.assert_allclose(np.bincount(weighted, minlength=4) / 4000, [0, 0.25, 0.25, 0.5], atol=0.03)


def test_loaders_agree_whatever_the_readers_and_the_ranks(store: Store) -> None:
    from swath.augment import Augment
    from swath.config import AugmentConfig
    from swath.loader import Loader

    plan = patches.plan(store, Config(patches=PatchesConfig(size=64)), "train")

    def load(readers: int, workers: int) -> list[NDArray[np.uint8]]:
        each = [Loader(store=store, plan=plan, batch=8, seed=3, rank=rank, world_size=workers, readers=readers,
                       augment=Augment(AugmentConfig(rotate=20, blur=0.5), store.dtype)).batches(2, 5)
                for rank in range(workers)]
        return [np.concatenate([b.images_NSBHW.numpy() for b in together]) for together in zip(*each, strict=True)]

    reference = load(0, 1)
    assert reference[0].shape == (8, 1, 3, 64, 64)
    for readers, workers in ((2, 1), (0, 4), (3, 2)):
        for one, other in zip(reference, load(readers, workers), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_loader_left_early_leaves_no_thread(store: Store, tmp_path: Path) -> None:
    import threading

    from swath.loader import Loader

    plan = patches.plan(store, Config(patches=PatchesConfig(size=64)), "train")
    batches = Loader(store=store, plan=plan, batch=4, seed=0, rank=0, world_size=1, readers=3,
                     augment=None).batches(0, 100)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("swath-reader")]
