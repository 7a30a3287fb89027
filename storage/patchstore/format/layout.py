"""Where a scene's arrays and shards lie: pure data, from the store's settings and the scene's shape."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchstore.format import conventions
from patchstore.format.pyramid import CELL, cell_shape
from patchstore.format.schema import Scene, Settings, array_json, group_json
from patchstore.format.windows import Range, level_shape

_MOST_BANDS = 4
"""Bands that lie in one chunk together; more are divided evenly."""
_FINER = 3
"""Levels up to this one are written together, the coarser ones together, where a scene is larger than one shard of it:
levels 1 to 3 are then written in parallel, and full resolution is read twice in all."""


@dataclass(frozen=True, slots=True)
class LevelPart:
    """The shards of the levels `first` … `last` over the ground of one shard of `last`: what one task writes."""

    first: int
    last: int
    row: int
    col: int
    """Place of the shard of `last`."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The arrays of one scene."""

    settings: Settings
    scene: Scene

    @property
    def bands_of_shards(self) -> int:
        """How many bands of shards the full resolution has."""
        return -(-self.scene.shape[0] // self.settings.shard)

    @property
    def shards(self) -> int:
        """How many files the pixels of all levels take."""
        counts = [self._shards(level) for level in range(self.scene.levels)]
        return len(self.planes()) * sum(rows * cols for rows, cols in counts)

    @property
    def level_parts(self) -> list[LevelPart]:
        """The shards of the coarser levels, by tasks."""
        last = self.scene.levels - 1
        if last > _FINER and max(self.scene.shape) > self.settings.shard << _FINER:
            groups = [(1, _FINER), (_FINER + 1, last)]
        else:
            groups = [(1, last)] if last else []
        return [LevelPart(low, high, i, j) for low, high in groups
                for i in range(self._shards(high)[0]) for j in range(self._shards(high)[1])]

    def has_shard(self, level: int, i: int, j: int) -> bool:
        """Whether a level reaches as far as shard (i, j)."""
        rows, cols = self._shards(level)
        return i < rows and j < cols

    def shard_ranges(self, level: int, i: int, j: int) -> tuple[Range, Range]:
        """Rows and columns of a level that a shard holds."""
        side, (rows, cols) = self.settings.shard, level_shape(self.scene.shape, level)
        return (i * side, min((i + 1) * side, rows)), (j * side, min((j + 1) * side, cols))

    def planes(self) -> list[str]:
        """The arrays that each level has."""
        return ["image"] + ["mask"] * self.scene.has_mask + ["valid"] * self.scene.has_valid

    def empty(self, shape: tuple[int, int]) -> dict[str, NDArray[Any]]:
        """Room for a stretch of (rows, cols) of each of them: image (B, H, W), mask uint8 and valid bool (H, W)."""
        of = {"image": ((self.settings.bands, *shape), self.settings.dtype), "mask": (shape, "uint8"),
              "valid": (shape, "bool")}
        return {name: np.empty(*of[name]) for name in self.planes()}

    def array(self, place: str) -> bytes:
        """Metadata of an array by its place in the scene's version: 0/image, counts, …"""
        s, scene = self.settings, self.scene
        if place in ("counts", "moments"):
            cells, rows = cell_shape(scene.shape), s.shard // CELL  # a band of shards owns its chunks of cells
            of = {"counts": ((len(s.classes),), "uint16", 0, ("class",)),
                  "moments": ((s.bands, 3), "float64", 0.0, ("band", "moment"))}
            more, dtype, fill, names = of[place]
            return array_json(shape=(*cells, *more), dtype=dtype, zstd=s.zstd, shard=None, fill=fill,
                              chunk=(rows, cells[1], *(max(1, n) for n in more)), names=("cell_y", "cell_x", *names))
        level, name = place.split("/")
        shape = level_shape(scene.shape, int(level))
        attributes = conventions.array_attributes(scene, name, s.classes, s.ignore)
        if name == "image":
            groups = -(-s.bands // _MOST_BANDS)
            bands = -(-s.bands // groups)
            return array_json(shape=(s.bands, *shape), dtype=s.dtype, chunk=(bands, s.chunk, s.chunk), zstd=s.zstd,
                              shard=(bands * groups, s.shard, s.shard), fill=0, names=("band", "y", "x"),
                              attributes=attributes)
        dtype, fill_value = {"mask": ("uint8", s.ignore), "valid": ("bool", False)}[name]
        return array_json(shape=shape, dtype=dtype, chunk=(s.chunk, s.chunk), shard=(s.shard, s.shard), zstd=s.zstd,
                          fill=fill_value, names=("y", "x"), attributes=attributes)

    def constraint(self, place: str) -> dict[str, Any]:
        """What an array's metadata must say for its bytes to be read right: all but the attributes."""
        return {name: value for name, value in json.loads(self.array(place)).items() if name != "attributes"}

    def metadata(self) -> dict[str, bytes]:
        """Content of every metadata file of groups and of arrays of pixels and cells, by its folder in the version."""
        scene = self.scene
        levels = range(scene.levels)
        groups = {"": group_json(conventions=conventions.version_attributes(scene)),
                  **{f"{level}": group_json(conventions=conventions.level_attributes(scene, level))
                     for level in levels}}
        places = [*(f"{level}/{name}" for level in levels for name in self.planes()), "counts", "moments"]
        return groups | {place: self.array(place) for place in places}

    def _shards(self, level: int) -> tuple[int, int]:
        rows, cols = level_shape(self.scene.shape, level)
        return -(-rows // self.settings.shard), -(-cols // self.settings.shard)
