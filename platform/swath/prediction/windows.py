"""Where overlapping windows lie, and the weights that blend them: integers and NumPy alone.

The two axes are independent: a window's weight at a pixel is the product of its weight along the rows and its weight
along the columns.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swath.geometry import Region, starts, stride_of


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
    """The windows of a scene at one scale: every row position with every column position.

    They lie, and their scores are blended, on a grid of its own: of the scene's pixels, or of squares of them where a
    patch's pixels are larger. So a coarse scale costs as little as its patches have pixels.
    """

    shape: tuple[int, int]
    """Rows and columns of the scene."""
    grid: int
    """Scene pixels along one pixel of the grid."""
    rows: Axis
    """On the grid, as `cols`."""
    cols: Axis

    @property
    def side(self) -> int:
        """Side of a window in scene pixels."""
        return self.rows.side * self.grid

    def corner(self, i: int, j: int) -> tuple[int, int]:
        """Scene row and column at which the window of row i and column j begins."""
        return int(self.rows.starts[i]) * self.grid, int(self.cols.starts[j]) * self.grid

    def touching(self, region: Region) -> tuple[range, range]:
        """Row and column indices of the windows that a region's scores are made of."""
        (top, bottom), (left, right) = (support(*bounds, self.grid, axis.length)
                                        for bounds, axis in zip(region, (self.rows, self.cols), strict=True))
        return self.rows.touching(top, bottom), self.cols.touching(left, right)


def lattice(shape: tuple[int, int], side: int, overlap: float, size: int) -> Lattice:
    """The windows of `side` pixels of a scene of `shape` (rows, columns), as patches of `size` pixels.

    The last ones are flush with the grid's end, and reach less than a pixel of it over the scene's. Raises ValueError
    as `axis` does.
    """
    grid = grid_of(side, size)
    rows, cols = (axis(-(-length // grid), side // grid, overlap) for length in shape)
    return Lattice(shape=shape, grid=grid, rows=rows, cols=cols)


def grid_of(side: int, size: int) -> int:
    """The largest power of two that divides a window's side and is not above its scale side / size; 1 at least.

    Powers of two, since windows then begin on pixels of the level that they are read from.
    """
    grid = 1
    while side % (2 * grid) == 0 and 2 * grid * size <= side:
        grid *= 2
    return grid


def support(first: int, past: int, grid: int, length: int) -> tuple[int, int]:
    """The stretch of a grid of `length` that scene pixels [first, past) are interpolated from."""
    low, high, _ = taps(first, past, grid, length)
    return int(low[0]), int(high[-1]) + 1


def finished(done: int, grid: int) -> int:
    """How many of a scene's first pixels can be interpolated from the first `done` of its grid, 1 or more."""
    return done if grid == 1 else grid * (done - 1) + grid // 2


def taps(first: int, past: int, grid: int, length: int
         ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Bilinear interpolation of scene pixels [first, past) from a grid of `length`: the two grid pixels that each lies
    between, and the second one's share. Exact in float32 for powers of two, and by a pixel's place in the scene alone:
    the same however rows are cut."""
    place = 2 * np.arange(first, past) + 1 - grid  # from the first grid pixel's centre, in 1 / (2 grid) of its pixels
    low = place // (2 * grid)
    share = (place - 2 * grid * low) / np.float32(2 * grid)
    high = low + (share > 0)
    return low.clip(0, length - 1), high.clip(0, length - 1), share.astype(np.float32)
