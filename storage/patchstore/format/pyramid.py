"""Coarser levels and cell statistics: several levels in one pass, yet every level straight from full resolution.

Sums and counts over 2^l x 2^l blocks are additive: those of level l + 1 are sums of four of level l, exactly, so that
nothing is ever a mean of rounded means. They are kept as means over 2^l x 2^l pixels, where a pixel that does not exist
counts 0: dividing by four changes the exponent only, and OpenCV's INTER_AREA takes such means of 2 x 2 at memory speed.
As no step rounds, it does not matter how OpenCV would round or in which order it adds.
Images of floats do round: they are added up in float64, by NumPy, and by the same tree of additions for each block.
So a level is the same however the scene is cut, as long as the cuts lie on the level's grid. A block at the far edge
holds only the pixels that exist.

Figures in comments: milliseconds for a million pixels on one core of an AMD EPYC.
Legend: B bands; H, W pixels of full resolution; h, w blocks; T tied blocks, P their pixels, V values of a mask.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchstore.format.windows import Range, level_shape

CELL = 64
"""Side of a cell of the counts and moments, in full-resolution pixels."""
_BLOCK = 1024
"""Side of what is reduced at once, in full-resolution pixels: a multiple of every level's block and of the cell."""
_STRIP = 1 << 17
"""Pixels that are widened at once: temporaries of 1 MB stay in the cache, and the allocator hands them out again, where
those of a block of 1024 x 1024 are mapped anew for each band (moments of three bands of floats: 28, against 8)."""

Array = NDArray[Any]


def means(image_BHW: Array, levels: Sequence[int], valid_HW: Array | None = None) -> dict[int, Array]:
    """Area means of several levels: level -> (B, h, w), in the image's dtype; integers are rounded half up.

    Only valid pixels count. A block without any has the mean of what stands there (the source's nodata value).
    """
    sizes = {level: _sizes(image_BHW.shape[1:], 1 << level) for level in levels}
    found = {level: np.empty((len(image_BHW), *sizes[level].shape), image_BHW.dtype) for level in levels}
    if valid_HW is not None and (valid_HW.all() or not valid_HW.any()):
        valid_HW = None  # a block without a valid pixel is as one in which all are valid
    real = {} if valid_HW is None else {level: (means_hw * 4**level).astype(np.int32)
                                        for level, means_hw in _block_means(valid_HW, levels)}
    for band, image_HW in enumerate(image_BHW):
        for level, means_hw in _block_means(image_HW, levels):
            found[level][band] = _finish(means_hw, level, sizes[level], image_BHW.dtype)
        if valid_HW is not None:
            for level, means_hw in _block_means(np.where(valid_HW, image_HW, 0), levels):
                some = real[level] > 0
                counts = np.where(some, real[level], sizes[level])
                np.copyto(found[level][band], _finish(means_hw, level, counts, image_BHW.dtype), where=some)
    return found


def majorities(mask_HW: Array, levels: Sequence[int]) -> dict[int, Array]:
    """The most frequent value of each block, for several levels: level -> (h, w), in the mask's dtype (uint8).

    The ignore value is one more value. A tie goes to the tied value that comes first in the block, row by row: no class
    is favoured.
    """
    (height, width), side = mask_HW.shape, 1 << max(levels)
    values = np.flatnonzero(cv2.calcHist([mask_HW], [0], None, [256], [0, 256])).astype(np.uint8)
    if len(values) == 1:
        return {level: np.full(level_shape(mask_HW.shape, level), values[0], mask_HW.dtype) for level in levels}
    here = np.zeros((height + -height % side, width + -width % side), np.uint8)
    shares: dict[int, list[Array]] = {level: [] for level in levels}
    for value in values:
        inside = here[:height, :width]
        np.equal(mask_HW, value, out=inside.view(np.bool_))
        np.multiply(inside, 64, out=inside)  # means of 64 times 0 or 1 are exact in uint8 as far as level 3
        for level, shares_hw in _halvings(here, levels, np.uint8, 3, np.float32):
            shares[level].append(shares_hw)
    return {level: _winners(mask_HW, level, values, shares[level]) for level in levels}


def valids(valid_HW: Array, levels: Sequence[int]) -> dict[int, Array]:
    """Which blocks have a valid pixel, for several levels: level -> bool (h, w)."""
    found = {}
    shape, valid_HW = valid_HW.shape, _padded(valid_HW, 1 << max(levels))
    for level in range(1, max(levels) + 1):
        rows = valid_HW[0::2] | valid_HW[1::2]
        valid_HW = rows.view(np.uint16) != 0  # two bools at once: 0.1, against 0.5 by columns
        if level in levels:
            rows_h, cols_w = level_shape(shape, level)
            found[level] = valid_HW[:rows_h, :cols_w]
    return found


def area_mean(image_BHW: Array, factor: int, valid_HW: Array | None = None) -> Array:
    """`means` of the one level whose blocks have factor x factor pixels; factor is a power of two."""
    level = factor.bit_length() - 1
    return means(image_BHW, [level], valid_HW)[level]


def fill_level(out: Array, rows: Range, cols: Range, level: int, shape: tuple[int, int],
               reduce: Callable[[Range, Range], Array]) -> None:
    """Fill out[..., rows, cols] of a level, block by block, with bounded memory.

    `shape` is the scene's; `reduce` gets ranges of full-resolution pixels, on the level's grid and inside the scene,
    1024 x 1024 of them at most, and returns what they are on the level.
    """
    (top, bottom), (left, right) = ((low << level, min(high << level, length))
                                    for (low, high), length in zip((rows, cols), shape))
    for row in range(top, bottom, _BLOCK):
        for col in range(left, right, _BLOCK):
            block = reduce((row, min(row + _BLOCK, bottom)), (col, min(col + _BLOCK, right)))
            y, x = (row - top) >> level, (col - left) >> level
            out[..., y:y + block.shape[-2], x:x + block.shape[-1]] = block


def cell_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """(cell rows, cell cols) of a scene."""
    return level_shape(shape, CELL.bit_length() - 1)


def cell_counts(mask_HW: Array, classes: int) -> Array:
    """Pixels of each class in each cell: uint16 (cell rows, cell cols, classes)."""
    counts = np.zeros((*cell_shape(mask_HW.shape), classes), np.uint16)
    for index in range(classes):
        here = mask_HW == index
        if here.any():
            counts[..., index] = _cell_sums(here.view(np.uint8), np.uint8)  # 64 in a column of a cell
    return counts


def cell_moments(image_BHW: Array, valid_HW: Array | None = None) -> Array:
    """Number, sum and sum of squares of each band's valid pixels in each cell: float64 (rows, cols, B, 3).

    Exact for integers: the largest sum of squares, 64² x 65535², is below 2^53.
    """
    counts = _sizes(image_BHW.shape[1:], CELL)
    if valid_HW is not None and not valid_HW.all():
        counts = _cell_sums(valid_HW.view(np.uint8), np.uint8)
        image_BHW = np.where(valid_HW, image_BHW, 0)
    moments = np.empty((*counts.shape, len(image_BHW), 3))
    moments[..., 0] = counts[..., None]
    sums_of = _float_sums if image_BHW.dtype.kind == "f" else _integer_sums
    for rows in _strips(image_BHW.shape[1:], CELL):
        here = slice(rows.start // CELL, -(-rows.stop // CELL))
        for band, image_HW in enumerate(image_BHW[:, rows]):
            moments[here, :, band, 1], moments[here, :, band, 2] = sums_of(image_HW)
    return moments


def _integer_sums(image_HW: Array) -> tuple[Array, Array]:
    """Sums and sums of squares over cells."""
    small = image_HW.dtype.itemsize == 1
    squares_HW = np.multiply(image_HW, image_HW, dtype=np.uint16 if small else np.float64)
    return _cell_sums(image_HW, np.int32), _cell_sums(squares_HW, np.uint32 if small else np.float64)


def _float_sums(image_HW: Array) -> tuple[Array, Array]:
    """Sums and sums of squares over cells, by the tree of additions that does not depend on the cut."""
    wide_HW, level = image_HW.astype(np.float64), CELL.bit_length() - 1
    (_, means_hw), (_, squares_hw) = (next(_block_means(values_HW, [level])) for values_HW in (wide_HW, wide_HW**2))
    return means_hw * CELL**2, squares_hw * CELL**2


def _cell_sums(values_HW: Array, dtype: DTypeLike) -> Array:
    """Sums over cells; `dtype` must hold those of a cell's column. Columns first, which are whole rows to add: 0.2."""
    values_HW = _padded(values_HW, CELL)
    rows, cols = values_HW.shape[0] // CELL, values_HW.shape[1] // CELL
    columns_hW = np.add.reduce(values_HW.reshape(rows, CELL, -1), axis=1, dtype=dtype)
    sums_hw: Array = columns_hW.reshape(rows, cols, CELL).sum(axis=-1)
    return sums_hw


def _padded(values_HW: Array, side: int) -> Array:
    """The values with zeros at the far edges, up to a multiple of `side`."""
    pad = [(0, -n % side) for n in values_HW.shape]
    return np.pad(values_HW, pad) if pad != [(0, 0), (0, 0)] else values_HW


def _sizes(shape: tuple[int, ...], factor: int) -> Array:
    """Existing pixels of each block: int32 (h, w)."""
    height, width = (np.minimum(factor, n - np.arange(0, n, factor)) for n in shape)
    return np.outer(height, width).astype(np.int32)


def _strips(shape: Sequence[int], side: int) -> Iterator[slice]:
    """Rows that are widened together: a multiple of `side`, except for the last."""
    step = max(1, _STRIP // (shape[1] * side)) * side
    return (slice(row, min(row + step, shape[0])) for row in range(0, shape[0], step))


def _block_means(values_HW: Array, levels: Sequence[int]) -> Iterator[tuple[int, Array]]:
    """(level, means over 2^l x 2^l pixels, absent ones counting 0: (h, w)); exact unless the values are floats."""
    bits = 8 * values_HW.dtype.itemsize
    last = 0 if values_HW.dtype.kind == "f" else (24 - bits) // 2  # two bits more for each level; float32 holds 24
    for level, means_hw in _halvings(_padded(values_HW, 1 << max(levels)), levels, np.float32, last, np.float64):
        rows, cols = level_shape(values_HW.shape, level)
        yield level, means_hw[:rows, :cols]


def _halvings(values_HW: Array, levels: Sequence[int], dtype: DTypeLike, last: int, wider: DTypeLike
              ) -> Iterator[tuple[int, Array]]:
    """(level, means over 2^l x 2^l values) for each of `levels`; `dtype` holds them as far as level `last`."""
    for level in range(1, max(levels) + 1):
        values_HW = _halve(values_HW, np.dtype(dtype if level <= last else wider))
        if level in levels:
            yield level, values_HW


def _halve(values_HW: Array, dtype: np.dtype[Any]) -> Array:
    """Means over 2 x 2 values, in a type that holds them or, for images of floats, in float64."""
    height, width = values_HW.shape
    halved_hw = np.empty((height // 2, width // 2), dtype)
    for rows in _strips(values_HW.shape, 2):
        strip_HW, half_hw = values_HW[rows].astype(dtype, copy=False), halved_hw[rows.start // 2:rows.stop // 2]
        if dtype == np.float64:
            sums_hW = strip_HW[0::2] + strip_HW[1::2]
            np.multiply(sums_hW[:, 0::2] + sums_hW[:, 1::2], 0.25, out=half_hw)
        else:
            half_hw[...] = cv2.resize(strip_HW, half_hw.shape[::-1], interpolation=cv2.INTER_AREA)
    return halved_hw


def _finish(means_hw: Array, level: int, counts_hw: Array, dtype: np.dtype[Any]) -> Array:
    """Means over the pixels that count, from means over 2^l x 2^l pixels where the others are 0."""
    if dtype.kind == "f":
        exact_hw: Array = means_hw * 4**level / counts_hw
        return exact_hw.astype(dtype)
    rounded_hw: Array = np.floor(means_hw + np.float32(0.5)).astype(dtype)
    fewer = counts_hw != 4**level
    if fewer.any():
        sums, counts = (means_hw[fewer] * 4**level).astype(np.int64), counts_hw[fewer]
        rounded_hw[fewer] = (sums + counts // 2) // counts
    return rounded_hw


def _winners(mask_HW: Array, level: int, values: Array, shares_Vhw: Sequence[Array]) -> Array:
    """The value with the largest share of each block, or the first of those: (h, w)."""
    most, tied = shares_Vhw[0].copy(), np.zeros(shares_Vhw[0].shape, np.bool_)
    winner = np.full(most.shape, values[0], mask_HW.dtype)
    for value, shares_hw in zip(values[1:], shares_Vhw[1:]):
        tied &= shares_hw <= most
        tied |= shares_hw == most
        np.copyto(winner, value, where=shares_hw > most)
        np.maximum(most, shares_hw, out=most)
    rows, cols = level_shape(mask_HW.shape, level)
    tied, winner = tied[:rows, :cols], winner[:rows, :cols]
    if tied.any():
        at = divmod(np.flatnonzero(tied), cols)  # ten times as fast as np.nonzero
        tops_VT = np.stack([shares_hw[at] == most[at] for shares_hw in shares_Vhw])
        winner[at] = _first_of_tied(_gather(mask_HW, 1 << level, at), values, tops_VT)
    return winner


def _gather(mask_HW: Array, factor: int, at: tuple[Array, ...]) -> Array:
    """The pixels (T, P) of some blocks, row by row. Beyond the far edge the last repeats, so it never comes first."""
    pad = [(0, -n % factor) for n in mask_HW.shape]
    whole = np.pad(mask_HW, pad, mode="edge") if pad != [(0, 0), (0, 0)] else mask_HW
    blocks = whole.reshape(whole.shape[0] // factor, factor, whole.shape[1] // factor, factor)
    return blocks[at[0], :, at[1], :].reshape(-1, factor * factor)


def _first_of_tied(pixels_TP: Array, values: Array, tops_VT: Array) -> Array:
    """For each of T blocks, the value of the first pixel whose value is among the block's most frequent."""
    good_TP = np.zeros(pixels_TP.shape, np.bool_)
    for value, top_T in zip(values, tops_VT):
        good_TP |= (pixels_TP == value) & top_T[:, None]
    first_T: Array = pixels_TP[np.arange(len(pixels_TP)), good_TP.argmax(axis=1)]
    return first_T
