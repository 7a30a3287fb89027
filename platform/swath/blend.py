"""Where overlapping windows lie, and the weights that blend them: integers and NumPy alone.

All positions are full-resolution scene pixels. The two axes are independent: a window's weight at a pixel is the
product of its weight along the rows and its weight along the columns.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Region = tuple[tuple[int, int], tuple[int, int]]
"""A rectangle of a scene: (first row, row past the last), (first column, column past the last)."""


def starts(length: int, side: int, stride: int) -> NDArray[np.int64]:
    """First pixels of the windows along an axis: every `stride`, the last flush with the end; [0] on a short axis."""
    last = max(0, length - side)
    return np.append(np.arange(0, last, stride, dtype=np.int64), np.int64(last))


def stride_of(side: int, overlap: float) -> int:
    """Distance between windows that have the share `overlap` of their side in common."""
    return max(1, round(side * (1 - overlap)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Axis:
    """The windows along one axis of a scene. Its memory is that of the positions, not of the weights."""

    length: int
    side: int
    starts: NDArray[np.int64]
    totals: NDArray[np.float64]
    """Sum of the profiles of all windows at each pixel of the axis, above zero everywhere."""

    def weights(self, index: int) -> NDArray[np.float32]:
        """Weights of a window over its `side` pixels: with those of the others they sum to one at every pixel of the
        axis. Zero where the window reaches past the end."""
        start = int(self.starts[index])
        inside = min(self.side, self.length - start)
        weights = np.zeros(self.side, np.float32)
        weights[:inside] = _profile(self.side)[:inside] / self.totals[start:start + inside]
        return weights

    def touching(self, first: int, past: int) -> range:
        """Indices of the windows that have a pixel in [first, past)."""
        return range(bisect_right(self.starts, first - self.side), bisect_left(self.starts, past))


def axis(length: int, side: int, overlap: float) -> Axis:
    """The windows of `side` pixels along an axis of `length`. Raises ValueError for sizes below 1 or an overlap
    outside [0, 1)."""
    if length < 1 or side < 1 or not 0 <= overlap < 1:
        raise ValueError(f"length and side must be 1 or more and overlap from 0 to below 1, got {length}, {side} "
                         f"and {overlap}")
    first = starts(length, side, stride_of(side, overlap))
    totals, profile = np.zeros(length), _profile(side)
    for start in first.tolist():
        totals[start:start + side] += profile[:length - start]
    return Axis(length=length, side=side, starts=first, totals=totals)


def _profile(side: int) -> NDArray[np.float64]:
    """Hann window sampled at half pixels, so that it is above zero at the outermost pixel too."""
    return np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Lattice:
    """The windows of a scene: every row position with every column position."""

    rows: Axis
    cols: Axis

    def touching(self, region: Region) -> Iterator[tuple[int, int]]:
        """Row and column index of each window that has a pixel in the region, row by row."""
        rows, cols = self.rows.touching(*region[0]), self.cols.touching(*region[1])
        return ((i, j) for i in rows for j in cols)


def lattice(shape: tuple[int, int], side: int, overlap: float) -> Lattice:
    """The windows of a scene of `shape` (rows, columns). Raises ValueError as `axis` does."""
    return Lattice(rows=axis(shape[0], side, overlap), cols=axis(shape[1], side, overlap))
