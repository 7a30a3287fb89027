"""Positions of windows in a split's cells of a scene, and their class counts. Pure functions of arrays.

Cells are 64 x 64 pixels; the last row and column are narrower if the scene ends inside them. Positions are
full-resolution scene pixels. Legend: I, J cell rows and columns, K classes, P windows.

The ground of a split is decomposed into its maximal rectangles of cells. A lattice of windows, flush with the edges,
covers each rectangle. Every pixel that some window inside the split can show is therefore in a window of a lattice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchstore import CELL
from swath.geometry import around, starts

Box = tuple[int, int, int, int]
"""A rectangle: first row, row after the last, first column, column after the last."""
_MAX_VALUES = 2**20
"""Class counts processed at a time: 8 MB for each array."""


def rectangles(cells_IJ: NDArray[np.bool_]) -> list[Box]:
    """The maximal rectangles of true cells, in cell units: rectangles that no larger rectangle of true cells contains.
    """
    if cells_IJ.all():
        return [(0, cells_IJ.shape[0], 0, cells_IJ.shape[1])] if cells_IJ.size else []
    rows, cols = _changes(cells_IJ), _changes(cells_IJ.T)
    found = _maximal(cells_IJ[np.ix_(rows[:-1], cols[:-1])])
    return [(int(rows[top]), int(rows[end]), int(cols[left]), int(cols[past])) for top, end, left, past in found]


def _changes(cells_IJ: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Row numbers at which a row differs from the previous one, and also 0 and the number of rows."""
    differs = (cells_IJ[1:] != cells_IJ[:-1]).any(axis=1)
    return np.concatenate([[0], np.flatnonzero(differs) + 1, [len(cells_IJ)]])


def _maximal(cells_IJ: NDArray[np.bool_]) -> Iterator[Box]:
    """Maximal rectangles by the largest-rectangle-in-a-histogram method. Each column has a bar: the number of true
    cells directly above. A run of columns under a common height is a rectangle, unless it can be extended downwards."""
    heights_J = np.zeros(cells_IJ.shape[1], np.int64)
    for row, own_J in enumerate(cells_IJ):
        heights_J = np.where(own_J, heights_J + 1, 0)
        under_J = cells_IJ[row + 1] if row + 1 < len(cells_IJ) else np.zeros_like(own_J)
        blocked = np.concatenate([[0], np.cumsum(~under_J)]).tolist()
        open_runs: list[tuple[int, int]] = []  # (first column, height), heights rising
        for col, height in enumerate([*heights_J.tolist(), 0]):
            first = col
            while open_runs and open_runs[-1][1] > height:
                first, tall = open_runs.pop()
                if blocked[col] > blocked[first]:
                    yield row + 1 - tall, row + 1, first, col
            if height and (not open_runs or open_runs[-1][1] < height):
                open_runs.append((first, height))


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Windows of one side in one scene."""

    row_P: NDArray[np.int32]
    """First row of each window, in ascending order."""
    col_P: NDArray[np.int32]
    """First column of each window."""
    reached_IJ: NDArray[np.float64]
    """Share of each cell that lies in a rectangle into which windows fit."""


def places(shape: tuple[int, int], boxes: list[Box], side: int, stride: int, outer: int | None = None) -> Places:
    """Windows of `side` pixels that lie, cut at the edge of the scene, in one of the maximal rectangles `boxes`.

    With `outer`, the square of that many pixels around the centre of each window must lie in the rectangle instead.
    Rectangles are first narrowed by the difference, except on sides that are the scene's edge.

    Only rectangles count that a window fits into, or that span a scene narrower than the window. They are taken from
    the largest to the smallest; a rectangle whose pixels are all covered already is skipped. Each one gets windows
    every `stride` pixels from its corner; the last is flush with its end. Time is linear in windows and rectangles.
    """
    spans = [_narrowed(_pixels(box, shape), shape, side, outer or side) for box in boxes]
    hosts = sorted((span for span in spans if _fits(span[:2], shape[0], side) and _fits(span[2:], shape[1], side)),
                   key=_rank)
    ends_2P = np.array(hosts, np.int64).reshape(-1, 2, 2).swapaxes(0, 1).reshape(2, -1)
    edges_R, edges_C = (np.unique(np.concatenate([np.arange(0, length, CELL), [length], ends_P]))
                        for length, ends_P in zip(shape, ends_2P, strict=True))
    reached_RC = np.zeros((len(edges_R) - 1, len(edges_C) - 1), np.bool_)  # between one edge and the next
    lattices: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for span in hosts:
        top, end, left, past = span
        (i, past_i), (j, past_j) = np.searchsorted(edges_R, (top, end)), np.searchsorted(edges_C, (left, past))
        if not reached_RC[i:past_i, j:past_j].all():
            reached_RC[i:past_i, j:past_j] = True
            lattices.append((top + starts(end - top, side, stride), left + starts(past - left, side, stride)))
    row_P, col_P = _union(lattices, shape[1])
    return Places(row_P=row_P, col_P=col_P, reached_IJ=_by_cell(reached_RC, edges_R, edges_C))


def _pixels(box: Box, shape: tuple[int, int]) -> Box:
    return box[0] * CELL, min(box[1] * CELL, shape[0]), box[2] * CELL, min(box[3] * CELL, shape[1])


def _narrowed(span: Box, shape: tuple[int, int], side: int, outer: int) -> Box:
    """The part of a rectangle in which windows of `side` may lie, so that the squares of `outer` pixels around their
    centres, cut at the edge of the scene, lie in the rectangle."""
    before = -around(0, side, outer)
    after = outer - side - before
    top, end, left, past = span
    return (top + before if top else 0, end - after if end < shape[0] else end,
            left + before if left else 0, past - after if past < shape[1] else past)


def _by_cell(reached_RC: NDArray[np.bool_], edges_R: NDArray[np.int64], edges_C: NDArray[np.int64]
             ) -> NDArray[np.float64]:
    """Share of each cell that is reached, from a grid that has an edge at every edge of a cell."""
    high_R, wide_C = np.diff(edges_R), np.diff(edges_C)
    first_I, first_J = np.flatnonzero(edges_R[:-1] % CELL == 0), np.flatnonzero(edges_C[:-1] % CELL == 0)
    area_RC = reached_RC * high_R[:, None] * wide_C
    area_IJ = np.add.reduceat(np.add.reduceat(area_RC, first_I, axis=0), first_J, axis=1)
    shares_IJ: NDArray[np.float64] = area_IJ / np.outer(np.add.reduceat(high_R, first_I),
                                                        np.add.reduceat(wide_C, first_J))
    return shares_IJ


def _fits(span: tuple[int, int], length: int, side: int) -> bool:
    return span[1] - span[0] >= side or span == (0, length)


def _rank(span: Box) -> tuple[int, Box]:
    """Sort key: largest area first, ties in a fixed order."""
    return -(span[1] - span[0]) * (span[3] - span[2]), span


def _union(lattices: list[tuple[NDArray[np.int64], NDArray[np.int64]]], width: int
           ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Rows and columns of all positions of some lattices, without repetition, row by row."""
    if len(lattices) == 1:
        rows, cols = (axis.astype(np.int32) for axis in lattices[0])
        return rows.repeat(len(cols)), np.tile(cols, len(rows))
    keys_P = [(rows[:, None] * width + cols).ravel() for rows, cols in lattices]
    row_P, col_P = np.divmod(np.unique(np.concatenate([np.empty(0, np.int64), *keys_P])), width)
    return row_P.astype(np.int32), col_P.astype(np.int32)


class CellSums:
    """Class counts of any window of a scene, from the counts of its cells.

    Exact for windows with edges on the 64 px grid or beyond the scene. Otherwise an estimate: a cell that is cut
    contributes in proportion to its area in the window.
    """

    def __init__(self, counts_IJK: NDArray[np.int64], shape: tuple[int, int]) -> None:
        self.shape = shape
        self.table_IJK = np.zeros((counts_IJK.shape[0] + 1, counts_IJK.shape[1] + 1, counts_IJK.shape[2]))
        self.table_IJK[1:, 1:] = counts_IJK.cumsum(axis=0).cumsum(axis=1)

    def by_class(self, row_P: NDArray[np.int32], col_P: NDArray[np.int32], side: int
                 ) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Class counts of windows, some at a time: (slice of the windows, float64 (windows of the slice, K) in scene
        pixels)."""
        most = max(1, _MAX_VALUES // self.table_IJK.shape[2])
        for first in range(0, len(row_P), most):
            some = slice(first, first + most)
            yield some, self._sums(row_P[some], col_P[some], side)

    def _sums(self, row_P: NDArray[np.int32], col_P: NDArray[np.int32], side: int) -> NDArray[np.float64]:
        tops, which_P = np.unique(row_P, return_inverse=True)
        ends = _in_cells(np.stack([tops, tops + side]), self.shape[0])
        low, share = _split(ends, len(self.table_IJK) - 2)
        share = share[..., None, None]
        below = self.table_IJK[low] * (1 - share) + self.table_IJK[low + 1] * share
        band_RJK = below[1] - below[0]
        low, share = _split(_in_cells(np.stack([col_P, col_P + side]), self.shape[1]), self.table_IJK.shape[1] - 2)
        left_PK, right_PK = (band_RJK[which_P, at] * (1 - part[:, None]) + band_RJK[which_P, at + 1] * part[:, None]
                             for at, part in zip(low, share, strict=True))
        sums_PK: NDArray[np.float64] = np.maximum(right_PK - left_PK, 0)  # differences of floats: -1e-9 for none
        return sums_PK

    def exact(self, row_P: NDArray[np.int32], col_P: NDArray[np.int32], side: int) -> NDArray[np.bool_]:
        """Whether the class counts of windows are exact, at full resolution: bool (P)."""
        whole_P = np.ones(len(row_P), np.bool_)
        for first_P, length in zip((row_P, col_P), self.shape, strict=True):
            past_P = first_P + side
            whole_P &= (first_P % CELL == 0) & ((past_P % CELL == 0) | (past_P >= length))
        return whole_P


def _in_cells(at_px: NDArray[np.int32], length: int) -> NDArray[np.float64]:
    """Pixel positions along an axis as fractional cell positions. The last cell may be narrower than the others."""
    edges = np.minimum(np.arange(-(-length // CELL) + 1) * CELL, length)
    return np.interp(at_px, edges, np.arange(len(edges)))


def _split(at: NDArray[np.float64], most: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Integer cell of each position, at most `most`, and the fraction of that cell before the position."""
    low = np.minimum(at.astype(np.int64), most)
    return low, at - low
