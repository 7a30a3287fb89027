"""A scene of a store, or a window of it, as a Cloud-Optimised GeoTIFF that any GIS opens."""

import difflib
import os
from collections.abc import Iterator
from typing import Literal

from patchstore.errors import StoreError
from patchstore.exports.cog import TILE, CogHeader, Piece, class_header, write_cog
from patchstore.format.schema import Affine, Scene
from patchstore.format.windows import Range, check_range, level_shape
from patchstore.store.read import Store


def export(store: Store, scene: str, path: str | os.PathLike[str], *, array: Literal["image", "mask"] = "image",
           rows: Range | None = None, cols: Range | None = None, level: int = 0, overwrite: bool = False) -> None:
    """Write the image or the mask of a scene, at one of its levels, with its CRS and the window's own transform.

    rows and cols are half-open, in that level's pixels; without them all are taken. An image has an internal mask where
    the scene has nodata. A mask has the classes' colours, their names as a JSON list in the tag CLASSES, and as nodata
    the store's ignore index. The tags SCENE, LEVEL, ROW and COL say where it was cut. Memory is that of 512 rows.

    Raises ValueError for a scene, level or range that there is not, StoreError for a mask where the scene has none,
    OutputError when the file exists and may not be overwritten or cannot be written, ReadError, StateError.
    """
    info = _scene(store, scene)
    if array not in ("image", "mask"):
        raise ValueError(f"array must be image or mask, got {array!r}")
    if not 0 <= level < info.levels:
        raise ValueError(f"scene {scene} has levels 0 … {info.levels - 1}, got {level}")
    height, width = level_shape(info.shape, level)
    rows = check_range("rows", (0, height) if rows is None else rows, height)
    cols = check_range("cols", (0, width) if cols is None else cols, width)
    if array == "mask" and not info.has_mask:
        raise StoreError(f"{store.uri}: scene {scene} has no mask; export its image, or ingest it with a mask")

    shape, transform = (rows[1] - rows[0], cols[1] - cols[0]), window_transform(info, rows[0], cols[0], level)
    tags = {"SCENE": scene, "LEVEL": str(level), "ROW": str(rows[0]), "COL": str(cols[0])}
    if array == "mask":
        header = class_header(shape=shape, crs=info.crs, transform=transform, nodata=store.ignore, tags=tags,
                              names=[c.name for c in store.classes], colours=[c.colour for c in store.classes])
    else:
        header = CogHeader(shape=shape, bands=store.bands, dtype=store.dtype.name, crs=info.crs, transform=transform,
                           masked=info.has_valid, tags=tags)
    write_cog(path, _pieces(store, scene, array, rows, cols, level, masked=header.masked), header, overwrite=overwrite)


def window_transform(scene: Scene, row: int, col: int, level: int) -> Affine | None:
    """The transform of a window from (row, col) on, in pixels of a level; None where the scene has none."""
    if scene.transform is None:
        return None
    a, b, c, d, e, f = scene.transform
    side, x, y = 1 << level, col << level, row << level
    return a * side, b * side, c + a * x + b * y, d * side, e * side, f + d * x + e * y


def _pieces(store: Store, scene: str, array: Literal["image", "mask"], rows: Range, cols: Range, level: int, *,
            masked: bool) -> Iterator[Piece]:
    """Read rows of whole chunks, so that each is decoded once, and about as many as a strip of the file has."""
    step = store.settings.chunk * max(1, TILE // store.settings.chunk)
    row = rows[0]
    while row < rows[1]:
        end = min((row // step + 1) * step, rows[1])
        valid_hW = store.region(scene, "valid", (row, end), cols, level) if masked else None
        yield Piece(row, store.region(scene, array, (row, end), cols, level), valid_hW)
        row = end


def _scene(store: Store, name: str) -> Scene:
    if name not in store.scenes:
        near = difflib.get_close_matches(name, store.scenes, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {len(store.scenes)} scenes of other names"
        raise ValueError(f"{store.uri}: has no scene {name!r}; {hint}")
    return store.scenes[name]
