"""Where windows lie, and their class pixels: literal cases, and brute force pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from patchstore import CELL
from swath.patches.places import Box, CellSums, places, rectangles


def cells_of(text: str) -> NDArray[np.bool_]:
    return np.array([[letter == "x" for letter in row] for row in text.split()])


@pytest.mark.parametrize(("text", "found"), [
    ("xxx xxx", [(0, 2, 0, 3)]),
    ("...", []),
    ("x.. xxx", [(0, 2, 0, 1), (1, 2, 0, 3)]),
    (".x. xxx .x.", [(0, 3, 1, 2), (1, 2, 0, 3)]),
    ("xx. .xx", [(0, 1, 0, 2), (0, 2, 1, 2), (1, 2, 1, 3)]),
])
def test_rectangles_of_a_few_shapes(text: str, found: list[Box]) -> None:
    assert sorted(rectangles(cells_of(text))) == found


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)))
def test_rectangles_are_all_that_are_maximal(cells: NDArray[np.bool_]) -> None:
    height, width = cells.shape
    full = [(i, m, j, n) for i in range(height) for m in range(i + 1, height + 1) for j in range(width)
            for n in range(j + 1, width + 1) if cells[i:m, j:n].all()]
    maximal = [a for a in full if not any(b != a and b[0] <= a[0] and b[1] >= a[1] and b[2] <= a[2] and b[3] >= a[3]
                                          for b in full)]
    assert sorted(rectangles(cells)) == sorted(maximal)


def _positions(length: int, side: int, step: int) -> list[int]:
    last = max(0, length - side)
    return sorted({*range(0, last, step), last})


@given(height=st.integers(1, 300), width=st.integers(1, 300), side=st.integers(8, 160), stride=st.integers(1, 200))
def test_a_whole_scene_has_the_plain_lattice(height: int, width: int, side: int, stride: int) -> None:
    cells = np.ones((-(-height // CELL), -(-width // CELL)), bool)
    found = places((height, width), rectangles(cells), side, stride)
    expected = [(row, col) for row in _positions(height, side, stride) for col in _positions(width, side, stride)]
    assert list(zip(found.row_P.tolist(), found.col_P.tolist(), strict=True)) == expected
    assert found.reached_IJ.all()


def _marked(shape: tuple[int, int], rows: NDArray[np.int64], cols: NDArray[np.int64], side: int) -> NDArray[np.bool_]:
    """Pixels that windows have."""
    edges = np.zeros((shape[0] + 1, shape[1] + 1), int)
    for row, sign in ((rows, 1), (np.minimum(rows + side, shape[0]), -1)):
        for col, turn in ((cols, 1), (np.minimum(cols + side, shape[1]), -1)):
            np.add.at(edges, (row, col), sign * turn)
    return edges.cumsum(0).cumsum(1)[:-1, :-1] > 0


@settings(deadline=None, max_examples=120)
@given(height=st.integers(1, 400), width=st.integers(1, 400), side=st.integers(8, 200), share=st.floats(0.3, 1),
       data=st.data(), seed=st.integers(0, 99))
def test_what_any_window_of_the_split_could_see_is_seen(height: int, width: int, side: int, share: float,
                                                        data: st.DataObject, seed: int) -> None:
    stride = data.draw(st.integers(1, side), "stride")
    cells = np.random.default_rng(seed).random((-(-height // CELL), -(-width // CELL))) < share
    found = places((height, width), rectangles(cells), side, stride)
    own = cells.repeat(CELL, 0).repeat(CELL, 1)[:height, :width]
    pairs = list(zip(found.row_P.tolist(), found.col_P.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert all(own[row:row + side, col:col + side].all() for row, col in pairs)

    total = np.pad(own.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    tall, wide = min(side, height), min(side, width)
    inside = total[tall:, wide:] - total[:-tall, wide:] - total[tall:, :-wide] + total[:-tall, :-wide]
    possible = _marked((height, width), *np.nonzero(inside == tall * wide), side)
    np.testing.assert_array_equal(_marked((height, width), found.row_P, found.col_P, side), possible)
    reached = found.reached_IJ.repeat(CELL, 0).repeat(CELL, 1)[:height, :width]
    np.testing.assert_array_equal(reached, possible)


def test_blocks_off_the_lattice_are_covered() -> None:
    """Ten cells between two foreign ones: the scene's own lattice of 256 px would leave 384 of their 640 px out."""
    cells = np.ones((12, 12), bool)
    cells[:, [0, -1]] = False
    found = places((768, 768), rectangles(cells), 256, 256)
    assert sorted(set(found.col_P.tolist())) == [64, 320, 448]
    assert sorted(set(found.row_P.tolist())) == [0, 256, 512]


def _counts(mask: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    counts = np.zeros((*(-(-n // CELL) for n in mask.shape), classes), np.int64)
    for i, j in np.ndindex(*counts.shape[:2]):
        piece = mask[i * CELL:(i + 1) * CELL, j * CELL:(j + 1) * CELL]
        counts[i, j] = np.bincount(piece[piece < classes], minlength=classes)
    return counts


@settings(deadline=None, max_examples=60)
@given(height=st.integers(1, 300), width=st.integers(1, 300), side=st.integers(1, 320), aligned=st.booleans(),
       data=st.data(), seed=st.integers(0, 99))
def test_class_pixels_of_windows(height: int, width: int, side: int, aligned: bool, data: st.DataObject,
                                 seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 4, (height, width), np.uint8)  # 3: ignored
    counts = _counts(mask, 3)
    rows, cols = (np.array(sorted(data.draw(st.lists(st.integers(0, n - 1), min_size=3, max_size=3))), np.int32)
                  for n in mask.shape)
    if aligned:
        rows, cols, side = rows // CELL * CELL, cols // CELL * CELL, max(side // CELL, 1) * CELL
    sums = CellSums(counts, (height, width))
    (_, found), exact = next(sums.by_class(rows, cols, side)), sums.exact(rows, cols, side)
    assert exact.all() or not aligned
    for row, col, pixels_K, true in zip(rows, cols, found, exact, strict=True):
        spread = np.zeros(3)  # every pixel of a cell is the cell's mean
        for i, j in np.ndindex(*counts.shape[:2]):
            tall, wide = (max(0, min((at + 1) * CELL, n, first + side) - max(at * CELL, first))
                          for at, n, first in ((i, height, row), (j, width, col)))
            area = min(CELL, height - i * CELL) * min(CELL, width - j * CELL)
            spread += counts[i, j] * (tall * wide / area)
        np.testing.assert_allclose(pixels_K, spread, atol=1e-6)
        if true:
            piece = mask[row:row + side, col:col + side]
            np.testing.assert_allclose(pixels_K, np.bincount(piece[piece < 3], minlength=3), atol=1e-6)
