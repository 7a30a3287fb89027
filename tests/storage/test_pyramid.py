"""Coarser levels and cell statistics against slow oracles, which look at one block after another."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from patchstore.format import pyramid
from patchstore.format.pyramid import CELL, cell_counts, cell_moments, fill_level, majorities, means, valids
from patchstore.format.windows import level_shape

LEVELS = (1, 2, 3, 4, 5)
INTEGERS = ("uint8", "uint16", "int16")
SHAPES = st.tuples(st.integers(1, 150), st.integers(1, 150))


def _blocks(shape: tuple[int, ...], side: int) -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
    """(place of a block, its pixels) for each block."""
    for h in range(-(-shape[0] // side)):
        for w in range(-(-shape[1] // side)):
            yield (h, w), np.s_[h * side:(h + 1) * side, w * side:(w + 1) * side]


def _tree_sum(block: np.ndarray, side: int) -> float:
    """The sum of a block of floats by halving, rows before columns: the order that levels promise."""
    square = np.zeros((side, side))
    square[:block.shape[0], :block.shape[1]] = block
    while len(square) > 1:
        rows = square[0::2] + square[1::2]
        square = rows[:, 0::2] + rows[:, 1::2]
    return float(square[0, 0])


def _image(dtype: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Two bands: one of the type's extremes, where sums are largest, and one of anything."""
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(0, 10.0 ** rng.integers(-3, 15, (2, *shape))).astype(np.float32)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    extremes = np.where(rng.random(shape) < rng.choice([0, 0.01, 0.99, 1]), low, high)
    return np.stack([extremes, rng.integers(low, high + 1, shape)]).astype(dtype)


def _valid(share: float | None, shape: tuple[int, int]) -> np.ndarray | None:
    return None if share is None else np.random.default_rng(7).random(shape) < share


@settings(max_examples=25, deadline=None)
@given(dtype=st.sampled_from([*INTEGERS, "float32"]), shape=SHAPES, seed=st.integers(0, 99),
       share=st.sampled_from([None, 0, 0.002, 0.5, 0.999, 1]))
def test_means_of_all_levels_are_those_of_full_resolution(dtype: str, shape: tuple[int, int], seed: int,
                                                          share: float | None) -> None:
    image, valid = _image(dtype, shape, seed), _valid(share, shape)
    found = means(image, LEVELS, valid)
    assert sorted(found) == list(LEVELS)
    for level in LEVELS:
        assert found[level].shape == (2, *level_shape(shape, level))
        assert found[level].dtype == image.dtype
        for place, here in _blocks(shape, 1 << level):
            real = np.ones(shape, np.bool_)[here] if valid is None or not valid[here].any() else valid[here]
            for band in (0, 1):
                block = np.where(real, image[band][here], 0)
                if dtype == "float32":
                    expected = np.float32(_tree_sum(block, 1 << level) / real.sum())
                else:
                    expected = (int(block.sum(dtype=np.int64)) + int(real.sum()) // 2) // int(real.sum())
                assert found[level][band][place] == expected


def test_means_that_float32_cannot_hold_are_rounded_right() -> None:
    image = np.full((1, 32, 32), 65534, np.uint16)
    image.reshape(-1)[:511] = 65535  # 511 / 1024 above 65534, which float32 takes for a half
    assert means(image, LEVELS)[5].tolist() == [[[65534]]]


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, values=st.lists(st.integers(0, 255), min_size=1, max_size=6), grain=st.sampled_from([1, 3, 16]),
       seed=st.integers(0, 99))
def test_majorities_take_the_first_of_the_most_frequent(shape: tuple[int, int], values: list[int], grain: int,
                                                        seed: int) -> None:
    coarse = np.random.default_rng(seed).choice(np.array(values, np.uint8), [-(-n // grain) for n in shape])
    mask = coarse.repeat(grain, 0).repeat(grain, 1)[:shape[0], :shape[1]]
    found = majorities(mask, LEVELS)
    for level in LEVELS:
        assert found[level].dtype == np.uint8
        expected = np.empty(level_shape(shape, level), np.uint8)
        for place, here in _blocks(shape, 1 << level):
            block = mask[here].ravel().tolist()
            expected[place] = max(dict.fromkeys(block), key=block.count)
        np.testing.assert_array_equal(found[level], expected)


def test_a_tie_at_the_far_edge_is_not_decided_by_the_next_block() -> None:
    mask = np.ones((8, 9), np.uint8)
    mask[:, 8] = [2, 0, 0, 0, 1, 1, 1, 2]
    assert majorities(mask, [3])[3].tolist() == [[1, 0]]
    assert majorities(mask.T.copy(), [3])[3].tolist() == [[1], [0]]


def test_a_mask_of_every_value_has_majorities() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = majorities(mask, [1, 4])
    np.testing.assert_array_equal(found[1], mask[::2, ::2])
    assert found[4].tolist() == [[0]]


@settings(max_examples=30, deadline=None)
@given(valid=hnp.arrays(np.bool_, SHAPES, elements=st.just(False), fill=st.just(False)), data=st.data())
def test_valids_see_a_single_pixel(valid: np.ndarray, data: st.DataObject) -> None:
    row, col = (data.draw(st.integers(0, n - 1)) for n in valid.shape)
    valid[row, col] = True
    for level, found in valids(valid, LEVELS).items():
        expected = np.zeros(level_shape(valid.shape, level), np.bool_)
        expected[row >> level, col >> level] = True
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.bool_


def test_levels_may_be_any_and_in_any_order() -> None:
    image, mask = _image("uint8", (130, 70), 1), _image("uint8", (130, 70), 2)[1] % 3
    every = {of: of(values, LEVELS) for of, values in ((means, image), (majorities, mask), (valids, mask == 1))}
    some = {of: of(values, [4, 2]) for of, values in ((means, image), (majorities, mask), (valids, mask == 1))}
    for of, found in some.items():
        assert set(found) == {2, 4}
        for level in found:
            np.testing.assert_array_equal(found[level], every[of][level])


@settings(max_examples=15, deadline=None)
@given(dtype=st.sampled_from([*INTEGERS, "float32"]), shape=SHAPES, seed=st.integers(0, 99),
       share=st.sampled_from([None, 0.5, 1]))
def test_cell_statistics_are_those_of_each_cell(dtype: str, shape: tuple[int, int], seed: int,
                                                share: float | None) -> None:
    image, valid = _image(dtype, shape, seed), _valid(share, shape)
    mask = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)
    counts, moments = cell_counts(mask, 3), cell_moments(image, valid)
    assert (counts.dtype, moments.dtype) == (np.uint16, np.float64)
    for place, here in _blocks(shape, CELL):
        assert counts[place].tolist() == [int((mask[here] == index).sum()) for index in range(3)]
        real = np.ones(shape, np.bool_)[here] if valid is None else valid[here]
        for band in (0, 1):
            if dtype == "float32":
                wide = np.where(real, image[band][here], 0).astype(np.float64)
                expected = [real.sum(), _tree_sum(wide, CELL), _tree_sum(wide * wide, CELL)]
            else:
                pixels = image[band][here][real].astype(np.int64)
                expected = [real.sum(), pixels.sum(), (pixels * pixels).sum()]
            assert moments[place][band].tolist() == expected


@pytest.mark.parametrize("dtype", [*INTEGERS, "float32"])
@pytest.mark.parametrize("block", [32, 96])
def test_levels_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch, dtype: str, block: int) -> None:
    """Blocks and strips far smaller than the image, of which a part is asked for."""
    shape = (333, 250)
    image, valid = _image(dtype, shape, 5), _valid(0.3, shape)
    whole = means(image, LEVELS, valid)
    monkeypatch.setattr(pyramid, "_BLOCK", block)
    monkeypatch.setattr(pyramid, "_STRIP", 500)
    for level in LEVELS:
        height, width = level_shape(shape, level)
        rows, cols = (height // 4, height), (width // 5, width - width // 6)
        seen = np.zeros(shape, int)

        def reduce(r: tuple[int, int], c: tuple[int, int], level: int = level, seen: np.ndarray = seen) -> np.ndarray:
            seen[slice(*r), slice(*c)] += 1
            assert max(r[1] - r[0], c[1] - c[0]) <= block
            return means(image[:, slice(*r), slice(*c)], [level], valid[slice(*r), slice(*c)])[level]

        out = np.zeros((2, rows[1] - rows[0], cols[1] - cols[0]), image.dtype)
        fill_level(out, rows, cols, level, shape, reduce)
        asked = seen[rows[0] << level:rows[1] << level, cols[0] << level:cols[1] << level]
        assert (asked == 1).all()
        assert seen.sum() == asked.size
        np.testing.assert_array_equal(out, whole[level][:, slice(*rows), slice(*cols)])


def test_cell_statistics_do_not_depend_on_the_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _image("float32", (300, 200), 3)
    whole = cell_moments(image)
    monkeypatch.setattr(pyramid, "_STRIP", 500)
    np.testing.assert_array_equal(cell_moments(image), whole)
