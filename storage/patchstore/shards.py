"""The pixels of an ingest: full resolution by bands of shards, coarser levels shard by shard. No shard has two writers.

Memory: a band of shards (2048 rows of the scene, all bands) in `write_band`; a shard and a block of 1024 x 1024 pixels
in `write_level_shard`, whatever the level.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from patchstore import kv
from patchstore.catalog import array_path
from patchstore.errors import StoreError
from patchstore.masks import Counts, MaskReader
from patchstore.plan import Ingest
from patchstore.pyramid import CELL, any_valid, area_mean, cell_counts, cell_moments, cell_shape, fill_level, majority
from patchstore.raster import open_dataset, read_pixels
from patchstore.window import Range

Array = NDArray[Any]
NODATA = "nodata"
"""Name, among the ignored values, of pixels that have a class but are not real."""
_FAILURES = (ValueError, OSError, RuntimeError, NotImplementedError)


def write_band(ingest: Ingest, i: int) -> Counts:
    """Write band i of the shards of full resolution, with its counts and moments of cells.

    Returns the pixels that its mask ignores, by value. Raises SourceError on a file that cannot be read and on values
    that nobody declared, StoreError when the store cannot be written.
    """
    settings, (height, width) = ingest.settings, ingest.scene.shape
    rows = (i * settings.shard, min((i + 1) * settings.shard, height))
    image_BHW = np.empty((settings.bands, rows[1] - rows[0], width), settings.dtype)
    valid_HW = np.empty(image_BHW.shape[1:], np.bool_) if ingest.scene.has_valid else None
    labels_HW, ignored = _labels(ingest, rows)
    cells = cell_shape(image_BHW.shape[1:])
    counts = np.zeros((*cells, len(settings.classes)), np.uint16)
    moments = np.empty((*cells, settings.bands, 3))
    with open_dataset(ingest.source.image) as dataset:
        for row in range(0, rows[1] - rows[0], settings.chunk):
            strip = slice(row, min(row + settings.chunk, rows[1] - rows[0]))
            pixels_BHW, real_HW = read_pixels(dataset, (rows[0] + strip.start, rows[0] + strip.stop), (0, width),
                                              ingest.info, valid=True)
            image_BHW[:, strip] = pixels_BHW
            if valid_HW is not None and real_HW is not None:
                valid_HW[strip] = real_HW
                if labels_HW is not None:
                    unreal = ~real_HW & (labels_HW[strip] != settings.ignore)
                    ignored[NODATA] += int(unreal.sum())
                    labels_HW[strip][unreal] = settings.ignore
            here = slice(row // CELL, -(-strip.stop // CELL))
            moments[here] = cell_moments(pixels_BHW, real_HW)
            if labels_HW is not None:
                counts[here] = cell_counts(labels_HW[strip], len(settings.classes))
    planes = {"image": image_BHW, "mask": labels_HW, "valid": valid_HW}
    for name, values in planes.items():
        if values is not None:
            _write(ingest, f"{name}/0", values, rows, (0, width))
    for name, cell_values in (("counts", counts), ("moments", moments)):
        _write(ingest, name, cell_values, (rows[0] // CELL, rows[0] // CELL + cells[0]), None)
    return {value: pixels for value, pixels in ignored.items() if pixels}


def write_level_shard(ingest: Ingest, level: int, i: int, j: int) -> None:
    """Write shard (i, j) of the arrays of a level above 0, straight from full resolution, which must be whole.

    Raises StoreError when the store cannot be read or written.
    """
    rows, cols = ingest.shard_ranges(level, i, j)
    factor, settings, scene = 1 << level, ingest.settings, ingest.scene
    image_0, *_ = full = [_handle(ingest, f"{name}/0") for name in
                          ["image"] + ["mask"] * scene.has_mask + ["valid"] * scene.has_valid]
    valid_0 = full[-1] if scene.has_valid else None
    shape = (rows[1] - rows[0], cols[1] - cols[0])

    def write(name: str, out: Array, reduce: Callable[[Range, Range], Array]) -> None:
        fill_level(out, rows, cols, level, scene.shape, reduce)
        _write(ingest, f"{name}/{level}", out, rows, cols)

    def pixels(full_rows: Range, full_cols: Range) -> Array:
        valid_HW = None if valid_0 is None else _read(valid_0, full_rows, full_cols)
        return area_mean(_read(image_0, full_rows, full_cols), factor, valid_HW)

    write("image", np.empty((settings.bands, *shape), settings.dtype), pixels)
    if scene.has_mask:
        write("mask", np.empty(shape, np.uint8), lambda r, c: majority(_read(full[1], r, c), factor))
    if valid_0 is not None:
        write("valid", np.empty(shape, np.bool_), lambda r, c: any_valid(_read(valid_0, r, c), factor))


def cell_totals(ingest: Ingest) -> tuple[Array, Array]:
    """Pixels of each class (K) and moments of each band (B, 3) over all cells that were written."""
    try:
        counts, moments = (_handle(ingest, name).read().result() for name in ("counts", "moments"))
    except _FAILURES as error:
        raise StoreError(f"{ingest.uri}: scene {ingest.scene.name} is not whole ({kv.plain(error)})") from None
    return counts.sum(axis=(0, 1), dtype=np.int64), moments.sum(axis=(0, 1))


def _labels(ingest: Ingest, rows: Range) -> tuple[NDArray[np.uint8] | None, Counter[str]]:
    if ingest.source.mask is None:
        return None, Counter()
    with MaskReader(ingest.source.mask, ingest.coding, ingest.settings.ignore) as reader:
        labels_HW, ignored = reader.decode(rows)
    return labels_HW, Counter(ignored)


def _handle(ingest: Ingest, name: str) -> ts.TensorStore:
    path = array_path(ingest.scene, name)
    try:
        return ts.open(kv.array(ingest.uri, path), context=kv.context()).result()
    except _FAILURES as error:
        raise StoreError(f"{ingest.uri}: {path} cannot be opened ({kv.plain(error)})") from None


def _read(handle: ts.TensorStore, rows: Range, cols: Range) -> Array:
    try:
        values: Array = handle[..., rows[0]:rows[1], cols[0]:cols[1]].read().result()
    except _FAILURES as error:
        raise StoreError(f"full resolution is absent or damaged ({kv.plain(error)}); ingest the scene again") from None
    return values


def _write(ingest: Ingest, name: str, values: Array, rows: Range, cols: Range | None) -> None:
    """Write whole shards of an array, one after the other, each file once; without cols all of some rows of cells."""
    handle = _handle(ingest, name)
    side = ingest.settings.shard
    try:
        if cols is None:
            handle[rows[0]:rows[1]].write(values).result()
            return
        for col in range(cols[0], cols[1], side):
            to_col = min(col + side, cols[1])
            with ts.Transaction() as transaction:  # else a shard could be written, and read back, chunk by chunk
                part = handle.with_transaction(transaction)[..., rows[0]:rows[1], col:to_col]
                part.write(values[..., col - cols[0]:to_col - cols[0]]).result()
    except _FAILURES as error:
        path = array_path(ingest.scene, name)
        raise StoreError(f"{ingest.uri}: {path} cannot be written ({kv.plain(error)})") from None
