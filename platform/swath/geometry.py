"""Integer geometry of windows along an axis and of rectangles in a scene. NumPy only."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Places = TypeVar("Places", int, NDArray[np.int32], NDArray[np.int64])
Range = tuple[int, int]
"""First row or column, and the one after the last."""
Region = tuple[Range, Range]
"""A rectangle of a scene: (first row, row after the last), (first column, column after the last)."""


def starts(length: int, side: int, stride: int) -> NDArray[np.int64]:
    """First pixels of windows along an axis: one every `stride`, the last flush with the end. [0] if the axis is
    shorter than a window."""
    last = max(0, length - side)
    return np.append(np.arange(0, last, stride, dtype=np.int64), np.int64(last))


def stride_of(side: int, overlap: float) -> int:
    """Distance between windows of `side` pixels that overlap by the share `overlap` of their side."""
    return max(1, round(side * (1 - overlap)))


def side_of(size: int, scale: float) -> int:
    """Side in scene pixels of a window of `size` pixels that each span `scale` scene pixels. It is rounded to a
    multiple of the largest power of two up to `scale`, so the error is at most half a patch pixel. An odd side would be
    blended at full resolution at every scale."""
    step = 1
    while 2 * step <= scale:
        step *= 2
    return max(1, round(size * scale / step)) * step


def around(start: Places, side: Places, other: Places) -> Places:
    """First position of a window with another side and the same centre (half a pixel before it if the difference is
    odd). Takes integers or arrays."""
    return start + (side - other) // 2
