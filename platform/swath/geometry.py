"""Integer geometry of windows along an axis and of rectangles of a scene. NumPy alone."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Places = TypeVar("Places", int, NDArray[np.int32], NDArray[np.int64])
Range = tuple[int, int]
"""First row or column, and the one past the last."""
Region = tuple[Range, Range]
"""A rectangle of a scene: (first row, row past the last), (first column, column past the last)."""


def starts(length: int, side: int, stride: int) -> NDArray[np.int64]:
    """First pixels of the windows along an axis: every `stride`, the last flush with the end; [0] on a short axis."""
    last = max(0, length - side)
    return np.append(np.arange(0, last, stride, dtype=np.int64), np.int64(last))


def stride_of(side: int, overlap: float) -> int:
    """Distance between windows that have the share `overlap` of their side in common."""
    return max(1, round(side * (1 - overlap)))


def side_of(size: int, scale: float) -> int:
    """Side in scene pixels of a window of `size` pixels that each span `scale`: the nearest multiple of the grid that
    such a scale can have, half a patch pixel at most beside the exact one. An odd side would be blended at full
    resolution, whatever the scale."""
    step = 1
    while 2 * step <= scale:
        step *= 2
    return max(1, round(size * scale / step)) * step


def around(start: Places, side: Places, other: Places) -> Places:
    """Where a window of another side begins that has the same centre (half a pixel above it for odd differences):
    integers, or arrays of them."""
    return start + (side - other) // 2
