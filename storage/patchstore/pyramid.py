"""Coarser levels and cell statistics, in plain NumPy: every level straight from full resolution.

Sums and counts over 2^l x 2^l blocks are additive, so that a level is the same however the scene is cut, as long as the
cuts lie on the level's grid. A block at the far edge holds only the pixels that exist.
Legend: B bands; H, W pixels of full resolution; h, w blocks.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchstore.window import Range, level_shape

CELL = 64
"""Side of a cell of the counts and moments, in full-resolution pixels."""
_BLOCK = 1024
"""Side of what is reduced at once, in full-resolution pixels: a multiple of every level's block and of the cell."""

Array = NDArray[Any]


def block_sums(values: Array, factor: int, dtype: DTypeLike) -> Array:
    """Sums over factor x factor blocks of the last two axes; factor is a power of two.

    By halving: the same tree of additions for each block, so that sums of floats do not depend on the cut either.
    """
    pad = [(0, 0)] * (values.ndim - 2) + [(0, -n % factor) for n in values.shape[-2:]]
    if pad[-1][1] or pad[-2][1]:
        values = np.pad(values, pad)
    while factor > 1:
        values = np.add(values[..., 0::2, :], values[..., 1::2, :], dtype=dtype)
        values = values[..., 0::2] + values[..., 1::2]
        factor //= 2
    sums: Array = values.astype(dtype, copy=False)
    return sums


def _sizes(shape: tuple[int, ...], factor: int) -> Array:
    """Existing pixels of each block: int32 (h, w)."""
    height, width = (np.minimum(factor, n - np.arange(0, n, factor)) for n in shape)
    return np.outer(height, width).astype(np.int32)


def area_mean(image_BHW: Array, factor: int, valid_HW: Array | None = None) -> Array:
    """Mean over blocks (B, h, w), in the image's dtype; integers are rounded half up.

    Only valid pixels count. A block without any has the mean of what stands there (the source's nodata value).
    """
    exact: DTypeLike = np.float64 if image_BHW.dtype.kind == "f" else np.int32  # 1024 x 65535 fits
    counts_hw = _sizes(image_BHW.shape[1:], factor)
    sums_Bhw = block_sums(image_BHW, factor, exact)
    if valid_HW is not None:
        valid_hw = block_sums(valid_HW, factor, np.int32)
        some = valid_hw > 0
        sums_Bhw = np.where(some, block_sums(np.where(valid_HW, image_BHW, 0), factor, exact), sums_Bhw)
        counts_hw = np.where(some, valid_hw, counts_hw)
    floats = image_BHW.dtype.kind == "f"
    means_Bhw: Array = sums_Bhw / counts_hw if floats else (sums_Bhw + counts_hw // 2) // counts_hw
    return means_Bhw.astype(image_BHW.dtype)


def any_valid(valid_HW: Array, factor: int) -> Array:
    """Which blocks (h, w) have a valid pixel."""
    return block_sums(valid_HW, factor, np.int32) > 0


def majority(mask_HW: Array, factor: int) -> Array:
    """The most frequent value of each block (h, w), the ignore value being one more value.

    A tie goes to the tied value that comes first in the block, row by row: no class is favoured.
    """
    shape = tuple(-(-n // factor) for n in mask_HW.shape)
    most, winner = np.zeros(shape, np.int16), np.zeros(shape, mask_HW.dtype)
    tied = np.zeros(shape, np.bool_)
    values = np.flatnonzero(np.bincount(mask_HW.ravel()))
    for value in values:
        count = block_sums(mask_HW == value, factor, np.int16)
        tied = (tied & (count <= most)) | ((count == most) & (count > 0))
        winner[count > most] = value
        np.maximum(most, count, out=most)
    if tied.any():
        winner[tied] = _first_of_tied(_gather(mask_HW, factor, tied), values)
    return winner


def _gather(mask_HW: Array, factor: int, at_hw: Array) -> Array:
    """The pixels (T, factor²) of some blocks, row by row; -1 where a pixel does not exist."""
    padded = np.pad(mask_HW.astype(np.int16), [(0, -n % factor) for n in mask_HW.shape], constant_values=-1)
    blocks = padded.reshape(at_hw.shape[0], factor, at_hw.shape[1], factor).swapaxes(1, 2)
    return blocks[at_hw].reshape(-1, factor * factor)


def _first_of_tied(pixels_TP: Array, values: Array) -> Array:
    """For each of T blocks, the value of the first pixel whose value is among the block's most frequent."""
    counts_TV = np.stack([(pixels_TP == value).sum(axis=1) for value in values], axis=1)
    tops_TV = counts_TV == counts_TV.max(axis=1, keepdims=True)
    good_TP = np.zeros(pixels_TP.shape, np.bool_)
    for value, top_T in zip(values, tops_TV.T):
        good_TP |= (pixels_TP == value) & top_T[:, None]
    first_T: Array = pixels_TP[np.arange(len(pixels_TP)), good_TP.argmax(axis=1)]
    return first_T


def fill_level(out: Array, rows: Range, cols: Range, level: int, shape: tuple[int, int],
               reduce: Callable[[Range, Range], Array]) -> None:
    """Fill out[..., rows, cols] of a level, block by block, with bounded memory.

    `shape` is the scene's; `reduce` gets ranges of full-resolution pixels, on the level's grid and inside the scene,
    and returns what they are on the level.
    """
    step = _BLOCK >> level
    for row in range(rows[0], rows[1], step):
        for col in range(cols[0], cols[1], step):
            to_row, to_col = min(row + step, rows[1]), min(col + step, cols[1])
            block = reduce((row << level, min(to_row << level, shape[0])),
                           (col << level, min(to_col << level, shape[1])))
            out[..., row - rows[0]:to_row - rows[0], col - cols[0]:to_col - cols[0]] = block


def cell_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """(cell rows, cell cols) of a scene."""
    return level_shape(shape, CELL.bit_length() - 1)


def cell_counts(mask_HW: Array, classes: int) -> Array:
    """Pixels of each class in each cell: uint16 (cell rows, cell cols, classes)."""
    counts = np.zeros((*cell_shape(mask_HW.shape), classes), np.uint16)
    present = np.flatnonzero(np.bincount(mask_HW.ravel(), minlength=classes)[:classes])
    for index in present:
        counts[..., index] = block_sums(mask_HW == index, CELL, np.uint16)
    return counts


def cell_moments(image_BHW: Array, valid_HW: Array | None = None) -> Array:
    """Number, sum and sum of squares of each band's valid pixels in each cell: float64 (rows, cols, B, 3).

    Exact for integers: the largest sum of squares, 64² x 65535², is below 2^53.
    """
    if valid_HW is None:
        counts = _sizes(image_BHW.shape[1:], CELL)
    else:
        counts = block_sums(valid_HW, CELL, np.int32)
        image_BHW = np.where(valid_HW, image_BHW, 0)
    moments = np.empty((*counts.shape, len(image_BHW), 3))
    moments[..., 0] = counts[..., None]
    for band, image_HW in enumerate(image_BHW):
        wide_HW = image_HW.astype(np.float64)
        moments[..., band, 1] = block_sums(wide_HW, CELL, np.float64)
        moments[..., band, 2] = block_sums(wide_HW * wide_HW, CELL, np.float64)
    return moments
