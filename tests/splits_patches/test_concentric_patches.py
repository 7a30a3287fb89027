"""Concentric patches: where they lie, what of their split they show, how they are read, and how they are varied."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from patchstore import CELL, Store, Window
from swath.config import AugmentConfig, Config, PatchesConfig, SplitConfig
from swath.errors import ConfigError, DataError
from swath.loading import reader
from swath.loading.augment import Augment
from swath.loading.loader import Loader
from swath.models.architectures.concentric import centre
from swath.patches import certificate, ordering, planning
from swath.patches.places import places, rectangles
from swath.splits import division

SCALES = (1.0, 2.0, 4.0)
CONCENTRIC = PatchesConfig(size=32, scales=SCALES, combine="concentric", stride=24)


def pixels(cells_IJ: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    return cells_IJ.repeat(CELL, axis=0).repeat(CELL, axis=1)[:shape[0], :shape[1]]


def inside(window: Window, shape: tuple[int, int]) -> tuple[slice, slice]:
    """The part of a window that lies in its scene."""
    return (slice(max(0, window.row), min(shape[0], window.row + window.side)),
            slice(max(0, window.col), min(shape[1], window.col + window.side)))


@settings(deadline=None, max_examples=100)
@given(height=st.integers(1, 400), width=st.integers(1, 400), side=st.integers(8, 120), more=st.integers(0, 150),
       share=st.floats(0.5, 1), data=st.data(), seed=st.integers(0, 99))
def test_what_any_window_with_its_surroundings_could_see_is_seen(height: int, width: int, side: int, more: int,
                                                                 share: float, data: st.DataObject, seed: int) -> None:
    """By brute force over every place of a window whose square of side + more pixels lies in the split's ground."""
    stride, shape = data.draw(st.integers(1, side), "stride"), (height, width)
    cells_IJ = np.random.default_rng(seed).random((-(-height // CELL), -(-width // CELL))) < share
    found = places(shape, rectangles(cells_IJ), side, stride, side + more)
    own_HW = pixels(cells_IJ, shape)
    before = (more + 1) // 2
    wide_HW = np.pad(own_HW, ((before, side + more),) * 2, constant_values=True)  # outside of the scene all is allowed
    total = np.pad(wide_HW.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    outer = side + more
    rows, cols = max(1, height - side + 1), max(1, width - side + 1)  # where a window may begin
    sums = (total[outer:, outer:] - total[:-outer, outer:] - total[outer:, :-outer] + total[:-outer, :-outer])
    allowed = sums[:rows, :cols] == outer**2
    assert all(allowed[row, col] for row, col in zip(found.row_P, found.col_P, strict=True))
    seen_HW, possible_HW = np.zeros(shape, bool), np.zeros(shape, bool)
    for row, col in zip(found.row_P, found.col_P, strict=True):
        seen_HW[row:row + side, col:col + side] = True
    for row, col in np.argwhere(allowed):
        possible_HW[row:row + side, col:col + side] = True
    np.testing.assert_array_equal(seen_HW, possible_HW)
    by_cell = [[possible_HW[i:i + CELL, j:j + CELL].mean() for j in range(0, width, CELL)]
               for i in range(0, height, CELL)]
    np.testing.assert_allclose(found.reached_IJ, by_cell)


@pytest.fixture(scope="module")
def blocks() -> SplitConfig:
    return SplitConfig(by="block", block=192, seed=1)


@pytest.mark.parametrize("foreign", ["exclude", "ignore"])
def test_a_plans_patches_have_one_centre_and_keep_to_their_split(store: Store, blocks: SplitConfig, foreign: str
                                                                 ) -> None:
    config = Config(patches=replace(CONCENTRIC, foreign=foreign), split=blocks)  # type: ignore[arg-type]
    split = division.divide(store, blocks)
    plan = planning.plan(store, config, "train", labels=split)
    ids = np.arange(len(plan))
    foreign_px = 0
    for views, window in zip(plan.views(ids), plan.windows(ids), strict=True):
        assert views[0] == window
        assert [view.side for view in views] == [32, 64, 128]
        assert len({(view.row + view.side // 2, view.col + view.side // 2, view.scene) for view in views}) == 1
        shape = store.scenes[window.scene].shape
        own_HW = pixels(split.cells(window.scene, "train"), shape)
        assert own_HW[inside(window, shape)].any()
        foreign_px += int((~own_HW[inside(views[-1], shape)]).sum())
    assert (foreign_px > 0) == (foreign == "ignore")
    assert any(view.row < 0 for views in plan.views(ids) for view in views)
    assert plan.megapixels == pytest.approx(len(plan) * 3 * 32**2 / 1e6)
    alone = planning.plan(store, Config(patches=replace(config.patches, scales=(1.0,), combine="single"), split=blocks),
                         "train", labels=split)
    assert (len(plan) < len(alone)) == (foreign == "exclude")
    assert plan.class_pixels_SK.shape == (1, len(store.classes))


def test_the_certificate_sees_the_coarsest_windows_to_the_pixel(store: Store, blocks: SplitConfig) -> None:
    split = division.divide(store, blocks)
    config = Config(patches=CONCENTRIC, split=blocks)
    kept = planning.plan(store, config, "train", labels=split)
    assert certificate.certify(store, split, {"train": kept}).clean
    # Their finest windows keep to the split; it is the ground around them that does not.
    loose = planning.plan(store, replace(config, patches=replace(CONCENTRIC, foreign="ignore")), "train", labels=split)
    seen = {name: np.zeros(scene.shape, bool) for name, scene in store.scenes.items()}
    for views in loose.views(np.arange(len(loose))):
        seen[views[-1].scene][inside(views[-1], seen[views[-1].scene].shape)] = True
    expected = sum(int((pixels(cells, seen[name].shape) & seen[name]).sum()) for name, cells in split.scenes("val"))
    pair = certificate.certify(store, split, {"train": loose}).pairs["train-val"]
    assert pair.overlap_px == expected > 0


def test_a_plan_without_room_for_the_ground_around_says_so(store: Store) -> None:
    blocks = SplitConfig(by="block", block=128, seed=1)
    with pytest.raises(DataError, match=r"no window of 512 scene pixels fits into the train cells"):
        planning.plan(store, Config(patches=replace(CONCENTRIC, scales=(1.0, 16.0)), split=blocks), "train")
    notes = planning.plan(store, Config(patches=CONCENTRIC, split=blocks), "train").notes
    assert any("of scale 1 and the ground around it at scale 4 fits" in note for note in notes)


@pytest.mark.parametrize("foreign", ["exclude", "ignore"])
def test_a_batch_has_the_stores_pixels_at_every_scale(store: Store, blocks: SplitConfig,
                                                      foreign: str) -> None:
    plan = planning.plan(store, Config(patches=replace(CONCENTRIC, foreign=foreign),  # type: ignore[arg-type]
                                      split=blocks), "train")
    loaders = [Loader(store=store, plan=plan, batch=12, seed=3, rank=0, world_size=1, augment=None, readers=readers)
               for readers in (0, 2)]
    for here, there in zip(*(loader.batches(1, 4) for loader in loaders), strict=True):
        assert here.images_NSBHW.shape == (12, 3, store.bands, 32, 32)
        np.testing.assert_array_equal(here.images_NSBHW, there.images_NSBHW)
        np.testing.assert_array_equal(here.labels_NHW, there.labels_NHW)
        for scale, windows in enumerate(zip(*plan.views(here.ids), strict=True)):
            images_NBHW, labels_NHW = store.read(windows, 32)
            np.testing.assert_array_equal(here.images_NSBHW[:, scale], images_NBHW)
            if scale == 0 and foreign == "exclude":
                np.testing.assert_array_equal(here.labels_NHW, labels_NHW)
        np.testing.assert_array_equal(here.labels_NHW, reader.read(store, plan, here.ids)[1])


def test_the_cache_has_room_for_the_chunks_of_every_scale(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes of 2 x 2 chunks, all of which are wanted at once, and one of each coarser level."""
    monkeypatch.setattr(ordering, "MIN_CACHE_BYTES", 0)
    plans = [planning.plan(store, Config(patches=chosen), "train") for chosen in (
        PatchesConfig(size=32, stride=24), CONCENTRIC)]
    one, all_scales = (ordering.cache_bytes(plan, 4, 1) for plan in plans)
    assert all_scales == pytest.approx(one * (4 + 1 + 1) / 4)
    assert sorted(ordering.sequence(plans[1], 0, 0, 4)) == list(range(len(plans[1])))


def waves(scale: float, size: int) -> NDArray[np.uint8]:
    """A smooth ground of four bands around the centre of a patch, at a scale: (B, size, size)."""
    at = (np.arange(size) - (size - 1) / 2) * scale
    y, x = np.meshgrid(at, at, indexing="ij")
    bands = [np.sin(x / 31 + y / 53), np.cos(x / 47), np.sin(y / 37 - x / 91), np.cos(x / 71 + y / 43 + 1)]
    return np.round(127 + 100 * np.stack(bands)).astype(np.uint8)


@pytest.mark.parametrize("pipeline", ["none", "flips", "aerial", "landcover_ai"])
def test_all_scales_show_the_same_ground_after_they_were_varied(pipeline: str) -> None:
    size, number = 64, 40
    augment = Augment(AugmentConfig(pipeline=pipeline), size=size, bands=4,  # type: ignore[arg-type]
                      dtype=np.dtype("uint8"), scales=SCALES)
    images_NSBHW = np.stack([np.stack([waves(scale, size) for scale in SCALES])] * number)
    labels_NHW = (images_NSBHW[:, 0, 3] // 64).astype(np.uint8)  # the fourth band, which no colour changes
    stored = images_NSBHW[0].copy()
    augment.vary(images_NSBHW, labels_NHW, np.arange(number))
    changed = 0
    for image_SBHW, label_HW in zip(images_NSBHW, labels_NHW, strict=True):
        true_HW = label_HW != 255  # elsewhere the finest is reflected
        changed += not np.array_equal(image_SBHW, stored)
        for scale, image_BHW in zip(SCALES[1:], image_SBHW[1:], strict=True):
            seen = centre(torch.from_numpy(image_BHW[None].astype(np.float32)), 1 / scale)[0].numpy()
            off_HW = np.abs(seen[3] - image_SBHW[0, 3])
            assert np.quantile(off_HW[true_HW], 0.98) < 6
        told_HW = np.abs(label_HW.astype(int) * 64 + 32 - image_SBHW[0, 3])
        assert (told_HW[true_HW] <= 36).mean() > 0.98
    assert (changed > number / 2) == (pipeline != "none")
    assert ((labels_NHW == 255).any()) == (pipeline in ("aerial", "landcover_ai"))


def test_colours_change_alike_and_distortions_are_refused() -> None:
    size = 32
    augment = Augment(AugmentConfig(pipeline="aerial"), size=size, bands=3, dtype=np.dtype("uint8"), scales=(1.0, 4.0))
    images_NSBHW = np.tile(np.array([120, 90, 60], np.uint8)[:, None, None], (30, 2, 1, size, size))
    before = images_NSBHW.copy()
    augment.vary(images_NSBHW, np.zeros((30, size, size), np.uint8), np.arange(30))
    assert (images_NSBHW != before).any(axis=(1, 2, 3, 4)).mean() > 0.5
    np.testing.assert_array_equal(images_NSBHW[:, 0], images_NSBHW[:, 1])
    with pytest.raises(ConfigError, match=r"^augment\.pipeline drone .* choose none, flips, aerial, landcover_ai$"):
        Augment(AugmentConfig(pipeline="drone"), size=size, bands=3, dtype=np.dtype("uint8"), scales=(1.0, 4.0))
