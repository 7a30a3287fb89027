"""Where a window lies in a scene's levels, and how what was read there becomes a patch. Pure arithmetic and arrays.

A window is a square of full-resolution pixels of a scene; a patch has `size` x `size` pixels, so one patch pixel spans
scale = side / size scene pixels. It is read from the level just finer than that scale: level = floor(log2(scale)), or
the coarsest there is. Its corner is snapped down to that level's grid, ceil(side / 2^level) level pixels are read, and
where that is not `size`, pixels are resampled by area and labels by the nearest pixel centre. Below scale 1 the full
resolution is read, and its pixels are enlarged bilinearly (a window's outermost half pixel is constant).

Over the edge, pixels continue by reflection (… b a | a b c … y z | z y …, as often as needed) and labels are ignored.
Legend: N windows, B bands, H, W rows and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

COARSEST_PX = 128
"""A scene gets levels until the longer side of the last is at most this."""
MOST_LEVELS = 6
"""Levels of a scene, the full resolution included: the coarsest has pixels 32 times as large."""
ENLARGED = 8
"""Most patch pixels along one scene pixel: finer than that a patch would show nothing but interpolation."""

Range = tuple[int, int]
"""Half-open range of rows or columns."""
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Window:
    """A square of ground: `side` full-resolution pixels of a scene from (row, col) on; may reach over any edge."""

    scene: str
    row: int
    col: int
    side: int


@dataclass(frozen=True, slots=True)
class Square:
    """A square of one level, in that level's pixels."""

    level: int
    row: int
    col: int
    side: int


def levels_of(shape: tuple[int, int]) -> int:
    """How many levels a scene of (rows, cols) has, the full resolution included."""
    levels = 1
    while levels < MOST_LEVELS and max(level_shape(shape, levels - 1)) > COARSEST_PX:
        levels += 1
    return levels


def level_shape(shape: tuple[int, int], level: int) -> tuple[int, int]:
    """(rows, cols) of a level: those of the scene over 2^level, rounded up."""
    return -(-shape[0] >> level), -(-shape[1] >> level)


def locate(row: int, col: int, side: int, size: int, levels: int) -> Square:
    """The square to read for a window. Raises ValueError when pixels would be enlarged more than `ENLARGED` times."""
    if size < 1 or side < max(1, size // ENLARGED):
        raise ValueError(f"a window's side ({side} scene pixels) must be at least 1/{ENLARGED} of the patch size "
                         f"({size}, 1 or more)")
    level = min(max((side // size).bit_length() - 1, 0), levels - 1)  # floor(log2(side / size)), in integers
    return Square(level, row >> level, col >> level, -(-side >> level))


def reflect(start: int, count: int, length: int) -> NDArray[np.int64]:
    """Which of `length` pixels stand at start … start + count - 1 of their half-sample symmetric continuation."""
    place = np.arange(start, start + count) % (2 * length)
    return np.minimum(place, 2 * length - 1 - place)


def reached(start: int, count: int, length: int) -> Range:
    """The stretch of pixels that `reflect` takes its own from."""
    if start >= 0 and start + count <= length:
        return start, start + count
    places = reflect(start, min(count, 2 * length), length)
    return int(places.min()), int(places.max()) + 1


def inside(start: int, count: int, length: int) -> Range:
    """The part of a stretch that exists; empty ranges where none does."""
    low = min(max(start, 0), length)
    return low, max(low, min(start + count, length))


def pixel_ranges(square: Square, shape: tuple[int, int]) -> tuple[Range, Range]:
    """Rows and columns of a level of `shape` that the pixels of a square need."""
    return reached(square.row, square.side, shape[0]), reached(square.col, square.side, shape[1])


def label_ranges(square: Square, shape: tuple[int, int]) -> tuple[Range, Range]:
    """Rows and columns of a level of `shape` that the labels of a square need."""
    return inside(square.row, square.side, shape[0]), inside(square.col, square.side, shape[1])


def direct(square: Square, shape: tuple[int, int], size: int) -> bool:
    """Whether a square lies inside its level and has the patch's size already: read it straight into the batch."""
    return (square.side == size and square.row >= 0 and square.col >= 0
            and square.row + size <= shape[0] and square.col + size <= shape[1])


def finish_pixels(block_BHW: Array, square: Square, shape: tuple[int, int], out_BSS: Array) -> None:
    """Make a patch of the pixels at `pixel_ranges`: reflected over the edge, resampled by area or enlarged."""
    rows, cols = pixel_ranges(square, shape)
    if rows != (square.row, square.row + square.side) or cols != (square.col, square.col + square.side):
        block_BHW = (block_BHW.take(reflect(square.col, square.side, shape[1]) - cols[0], axis=2)
                     .take(reflect(square.row, square.side, shape[0]) - rows[0], axis=1))  # 8 times one index of both
    size = out_BSS.shape[-1]
    how = cv2.INTER_AREA if square.side > size else cv2.INTER_LINEAR
    for out_SS, band_HW in zip(out_BSS, block_BHW):
        out_SS[...] = (band_HW if square.side == size
                       else cv2.resize(np.ascontiguousarray(band_HW), (size, size), interpolation=how))


def centres(square: Square, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the level whose labels a patch has: those at its pixels' centres, int64 (size) each."""
    places = (2 * np.arange(size) + 1) * square.side // (2 * size)
    return square.row + places, square.col + places


def finish_labels(block_HW: Array, square: Square, shape: tuple[int, int], ignore: int, out_SS: Array) -> None:
    """Make a patch of the labels at `label_ranges`: ignored over the edge, each from the nearest pixel centre."""
    rows, cols = label_ranges(square, shape)
    row_S, col_S = centres(square, len(out_SS))
    top, bottom = np.searchsorted(row_S, rows)
    left, right = np.searchsorted(col_S, cols)
    out_SS[...] = ignore
    out_SS[top:bottom, left:right] = (block_HW.take(row_S[top:bottom] - rows[0], axis=0)
                                      .take(col_S[left:right] - cols[0], axis=1))


def check_range(name: str, bounds: Sequence[int], length: int) -> Range:
    """(first, end) as integers. Raises ValueError when the range is empty, turned round or reaches outside."""
    low, high = int(bounds[0]), int(bounds[1])
    if not 0 <= low < high <= length:
        raise ValueError(f"{name} must be a range within 0 … {length}, got {low} … {high}")
    return low, high
