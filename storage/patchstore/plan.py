"""What an ingest of a scene will write: pure data, so that its parts can run in any process."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from patchstore.errors import SourceError, StoreError
from patchstore.masks import MaskCoding
from patchstore.pyramid import CELL, cell_shape
from patchstore.raster import RasterInfo
from patchstore.schema import FORMAT, Scene, Settings, array_json, digest
from patchstore.sources import SceneSource, check_mask, inspect
from patchstore.window import Range, level_shape, levels_of

_MOST_BANDS = 4
"""Bands that lie in one chunk together; more are divided evenly."""


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """One scene on its way into a store."""

    uri: str
    settings: Settings
    source: SceneSource
    coding: MaskCoding
    info: RasterInfo
    scene: Scene
    """The scene as it will be, but for what is counted while it is written."""

    @property
    def bands_of_shards(self) -> int:
        """How many bands of shards the full resolution has."""
        return -(-self.scene.shape[0] // self.settings.shard)

    @property
    def level_shards(self) -> list[tuple[int, int, int]]:
        """(level, i, j) of every shard of the coarser levels."""
        side = self.settings.shard
        shapes = [level_shape(self.scene.shape, level) for level in range(self.scene.levels)]
        return [(level, i, j) for level, (rows, cols) in enumerate(shapes) if level > 0
                for i in range(-(-rows // side)) for j in range(-(-cols // side))]

    def shard_ranges(self, level: int, i: int, j: int) -> tuple[Range, Range]:
        """Rows and columns of a level that a shard holds."""
        side, (rows, cols) = self.settings.shard, level_shape(self.scene.shape, level)
        return (i * side, min((i + 1) * side, rows)), (j * side, min((j + 1) * side, cols))

    def arrays(self) -> dict[str, bytes]:
        """Metadata of every array, by its place in the scene's version: image/0, …"""
        s, scene = self.settings, self.scene
        groups = -(-s.bands // _MOST_BANDS)
        bands = -(-s.bands // groups)
        found = {}
        for level in range(scene.levels):
            shape = level_shape(scene.shape, level)
            found[f"image/{level}"] = array_json(
                shape=(s.bands, *shape), dtype=s.dtype, chunk=(bands, s.chunk, s.chunk), zstd=s.zstd,
                shard=(bands * groups, s.shard, s.shard), fill=0, names=("band", "row", "col"))
            planes = [("mask", "uint8", s.ignore)] * scene.has_mask + [("valid", "bool", False)] * scene.has_valid
            for name, dtype, fill in planes:
                found[f"{name}/{level}"] = array_json(shape=shape, dtype=dtype, chunk=(s.chunk, s.chunk), zstd=s.zstd,
                                                      shard=(s.shard, s.shard), fill=fill, names=("row", "col"))
        cells, rows = cell_shape(scene.shape), s.shard // CELL  # a band of shards owns its chunks of cells
        found["counts"] = array_json(
            shape=(*cells, len(s.classes)), dtype="uint16", chunk=(rows, cells[1], max(1, len(s.classes))), shard=None,
            zstd=s.zstd, fill=0, names=("cell_row", "cell_col", "class"))
        found["moments"] = array_json(
            shape=(*cells, s.bands, 3), dtype="float64", chunk=(rows, cells[1], s.bands, 3), shard=None, zstd=s.zstd,
            fill=0.0, names=("cell_row", "cell_col", "band", "moment"))
        return found


def plan(uri: str, settings: Settings, source: SceneSource, coding: MaskCoding | None = None) -> Ingest:
    """Look at a scene's files, and read them once for the fingerprint.

    Without a coding the mask's values are class indices. Raises SourceError when a file cannot be read or does not fit
    the store or its image, StoreError when the coding has other classes than the store.
    """
    coding = coding or MaskCoding(classes=settings.classes)
    if coding.classes != settings.classes:
        raise StoreError(f"{uri}: its classes are {_listed(settings)}, but the masks' are {_listed(coding)}; give the "
                         "store's classes, or another store")
    info = inspect(source)
    if (info.bands, info.dtype) != (settings.bands, settings.dtype):
        raise SourceError(f"{source.image}: has {info.bands} bands of {info.dtype}, but the store {uri} has "
                          f"{settings.bands} of {settings.dtype}; convert it, or ingest it into another store")
    if source.mask is not None:
        check_mask(source.mask, source.image, info.shape)
    fingerprint = _fingerprint(settings, source, coding)
    return Ingest(uri=uri, settings=settings, source=source, coding=coding, info=info, scene=Scene(
        name=source.name, shape=info.shape, crs=info.crs, transform=info.transform, group=source.group,
        origin=source.origin, fingerprint=fingerprint, version=fingerprint[:16], levels=levels_of(info.shape),
        has_mask=source.mask is not None, has_valid=info.has_valid, ignored=0, ignored_values=(), class_pixels=(),
        band_sums=()))


def _fingerprint(settings: Settings, source: SceneSource, coding: MaskCoding) -> str:
    files = [_content(path) if path else "none" for path in (source.image, source.mask)]
    layout = (FORMAT, settings.chunk, settings.shard, settings.zstd, settings.ignore)
    return digest([*files, *map(str, layout), *(f"{c.name}={c.code}" for c in settings.classes), coding.kind,
                   *sorted(coding.ignored)])


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error})") from None


def _listed(classes: Settings | MaskCoding) -> str:
    return ", ".join(f"{info.name}={info.code}" for info in classes.classes)
