"""The ceiling of a scale: against patches that are read and brought back one by one, and on labels made by hand."""

import json
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console

from patchstore import Store, Window
from support import paper_store
from swath import recipes
from swath.config import Config, PatchesConfig
from swath.patches import planning
from swath.patches.planning import PatchPlan
from swath.report import plan_tables
from swath.scoring import ceiling, counting, metrics
from swath.splits import division
from swath.splits.division import Split

IGNORE = 255


def planned(store: Store, size: int, *scales: float) -> tuple[Split, PatchPlan]:
    config = recipes.synthetic()
    config = replace(config, patches=replace(config.patches, size=size, scales=scales, combine="mixture"))
    split = division.divide(store, config.split)
    return split, planning.plan(store, config, "val", labels=split)


def brute(store: Store, split: Split, size: int, scale: float) -> NDArray[np.int64]:
    """The same by reading every patch, edge to edge, and looking up each full-resolution pixel in it."""
    counts_KK = np.zeros((len(store.classes),) * 2, np.int64)
    side = round(size * scale)
    for scene, cells in split.scenes("val"):
        height, width = store.scenes[scene].shape
        labels_HW = counting.labels_of(store, scene, cells, (0, height), (0, width))
        back_HW = np.full_like(labels_HW, IGNORE)
        for row, col in product(range(0, height, side), range(0, width, side)):
            patch_SS = store.read([Window(scene, row, col, side)], size)[1][0]
            for r, c in product(range(row, min(row + side, height)), range(col, min(col + side, width))):
                back_HW[r, c] = patch_SS[int((r - row + 0.5) * size / side), int((c - col + 0.5) * size / side)]
        known = (back_HW != IGNORE) | (labels_HW == IGNORE)
        counts_KK += metrics.confusion(labels_HW, np.where(known, back_HW, labels_HW), len(store.classes), IGNORE)
    return counts_KK


@pytest.mark.parametrize(("size", "scale"), [(64, 1.0), (64, 2.0), (32, 4.0), (50, 1.5), (48, 3.3)])
def test_it_is_what_patches_read_from_the_store_give(store: Store, size: int, scale: float) -> None:
    split, plan = planned(store, size, scale)
    found = ceiling.ceiling(store, split, "val", plan, most_megapixels=1e9)
    expected_KK = brute(store, split, size, scale)
    edge = abs(found.counts_SKK[0] - expected_KK).sum() / 2  # past the scene's edge a patch has no label to take
    assert edge <= 0.001 * expected_KK.sum()
    assert found.counts_SKK[0].sum() == expected_KK.sum()
    assert found.whole


def test_nothing_is_lost_at_scale_1_and_more_at_each_coarser(store: Store) -> None:
    split, plan = planned(store, 32, 1.0, 2.0, 4.0, 8.0)
    found = ceiling.ceiling(store, split, "val", plan, most_megapixels=1e9)
    means = [found.mean(scale) for scale in range(4)]
    assert means[0] == 1
    assert means == sorted(means, reverse=True)
    assert means[3] < 0.99
    assert found.counts_SKK.sum(axis=(1, 2)).tolist() == [division.class_pixels(store, split, "val").sum()] * 4
    assert all(value is None or value == 1 for value in found.iou(0).values())


def test_a_class_without_labels_has_no_ceiling(store: Store) -> None:
    split, plan = planned(store, 32, 1.0)
    found = ceiling.ceiling(store, split, "val", plan, most_megapixels=1e9)
    without_K = found.present_K & (np.arange(5) != 0)
    assert found.present_K[0]
    assert found.iou(0)[found.classes[0]] == 1
    assert replace(found, present_K=without_K).iou(0)[found.classes[0]] is None


def test_a_bound_takes_blocks_from_all_of_the_split(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "CEILING_BLOCK_PX", 64)
    split, plan = planned(store, 32, 2.0)
    read: list[tuple[str, int]] = []
    region = store.region

    def noting(scene: str, array: str, rows: tuple[int, int], *rest: Any) -> NDArray[Any]:
        read.append((scene, rows[0]))
        return region(scene, array, rows, *rest)

    monkeypatch.setattr(store, "region", noting)
    found = ceiling.ceiling(store, split, "val", plan, most_megapixels=10 * 64 * 64 / 1e6)
    assert found.megapixels == pytest.approx(10 * 64 * 64 / 1e6)
    assert found.of_megapixels == pytest.approx(2 * 320 * 320 / 1e6)
    assert not found.whole
    assert {scene for scene, _ in read} == {scene for scene, _ in split.scenes("val")}
    assert max(row for _, row in read) > 160


def test_a_sample_is_of_labelled_ground_and_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One scene, three blocks: without labels, of class 0, and of class 1."""
    monkeypatch.setattr(ceiling, "CEILING_BLOCK_PX", 64)
    labels_HW = np.repeat([[IGNORE, 0, 1]], 64, axis=1).repeat(64, axis=0).astype(np.uint8)
    store = paper_store.PaperStore([paper_store.scene("s", labels_HW.shape)], {"s": labels_HW}, names=("a", "b"))
    split = Split(labels={"s": np.ones((1, 3), np.uint8)})
    plan = planning.plan(store, Config(patches=PatchesConfig(size=64)), "val", labels=split)  # type: ignore[arg-type]
    found = ceiling.ceiling(store, split, "val", plan, most_megapixels=64 * 64 / 1e6)  # type: ignore[arg-type]
    assert found.of_megapixels == 2 * found.megapixels == 2 * 64 * 64 / 1e6
    assert sorted(found.iou(0).values(), key=str) == [1.0, None]
    Console(file=(printed := StringIO()), width=100).print(plan_tables.ceiling(found))
    assert "not in the sample" in printed.getvalue()
    nothing = replace(found, counts_SKK=np.zeros_like(found.counts_SKK))
    assert json.loads(json.dumps(nothing.to_json(), allow_nan=False))["scales"][0]["miou"] is None


def test_labels_are_compared_where_there_are_any() -> None:
    labels_HW = np.array([[0, 0, 1, IGNORE]], np.uint8)
    coarse_HW = np.array([[0, 1, IGNORE, 1]], np.uint8)
    assert ceiling.compare(labels_HW, coarse_HW, 2, IGNORE).tolist() == [[1, 1], [0, 1]]


def cases() -> Iterator[tuple[int, int, int, int, list[int]]]:
    yield 6, 2, 4, 1, [0, 0, 1, 1, 2, 2]         # scale 2 from level 1
    yield 7, 2, 2, 0, [0, 1, 2, 3, 4, 5, 6]      # scale 1
    yield 6, 2, 3, 0, [0, 2, 2, 3, 5, 5]         # scale 1.5 from level 0: the centres of two pixels over three
    yield 5, 2, 8, 1, [1, 1, 1, 1, 2]            # scale 4 where level 1 is the coarsest


@pytest.mark.parametrize(("length", "size", "side", "level", "expected"), list(cases()))
def test_whose_label_a_pixel_gets(length: int, size: int, side: int, level: int, expected: list[int]) -> None:
    assert ceiling.sources(0, length, length, size, side, level).tolist() == expected


@given(length=st.integers(1, 400), size=st.integers(1, 64), scale=st.floats(1, 16), level=st.integers(0, 3),
       cut=st.floats(0, 1))
def test_a_stretch_has_the_pixels_of_the_whole_axis_and_no_other(length: int, size: int, scale: float, level: int,
                                                                 cut: float) -> None:
    side = round(size * scale)
    level = min(level, int(side / size).bit_length() - 1)
    whole = ceiling.sources(0, length, length, size, side, level)
    first = int(cut * (length - 1))
    assert ceiling.sources(first, length, length, size, side, level).tolist() == whole[first:].tolist()
    assert 0 <= whole.min() <= whole.max() < max(1, -(-length >> level))
    centre = (whole + 0.5) * 2**level  # a pixel's label comes from no further than its patch pixel, and a rounding
    assert (abs(centre - np.arange(length) - 0.5) <= side / size / 2 + 2 * 2**level + 1).all()
