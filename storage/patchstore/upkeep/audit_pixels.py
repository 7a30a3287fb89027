"""Whether what a scene's arrays hold fits together: all that is made of full resolution, made anew and compared.

Shard by shard of full resolution, which is read once; every pixel of a coarser level lies over one of them.
Memory: one shard with what is made of it. The functions and the cuts are those of the ingest, so that floats are the
same to the bit.
Legend: B bands; H, W pixels of full resolution; h, w pixels of a level, or cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from patchstore.format import locations
from patchstore.format.catalog import array_path
from patchstore.format.layout import Layout
from patchstore.format.pyramid import CELL, cell_counts, cell_moments, cell_shape
from patchstore.format.schema import META
from patchstore.ingestion.shards import reduce
from patchstore.upkeep.findings import Findings, Ground

_CACHE = 64 << 20
"""Bytes of decoded chunks: one of a coarse level lies over several shards of full resolution."""

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """What one band of shards gives, made anew; 0 where a shard was not looked at."""

    counts: Array
    """(h, w, classes)."""
    moments: Array
    """(h, w, B, 3)."""
    seen_hw: NDArray[np.bool_]
    ignored: int
    """Pixels that the mask ignores."""


@dataclass(frozen=True, kw_only=True)
class _Totals:
    """What is kept of a band: its cells would be more memory the higher the scene is."""

    class_pixels: Array
    """(classes,) int64."""
    band_sums: Array
    """(B, 3)."""
    ignored: int


@dataclass(frozen=True, kw_only=True)
class PixelAudit:
    """The arrays of one version of a scene."""

    uri: str
    layout: Layout
    ground: Ground
    findings: Findings
    _handles: dict[str, ts.TensorStore | None] = field(default_factory=dict)
    _context: ts.Context = field(default_factory=lambda: locations.context(_CACHE))

    def run(self) -> None:
        """Look at every shard of the ground; at the totals where that is the whole scene."""
        bands, seen = list[_Totals](), self.ground.whole
        for i, shards in groupby(self.ground.shards, lambda shard: shard[0]):
            cells = self._made(i, [j for _, j in shards])
            self._compare_cells(i, cells)
            seen &= bool(cells.seen_hw.all())
            bands.append(_Totals(class_pixels=cells.counts.sum(axis=(0, 1), dtype=np.int64),
                                 band_sums=cells.moments.sum(axis=(0, 1)), ignored=cells.ignored))
        if seen:
            self._compare_totals(bands)

    def _made(self, i: int, columns: Sequence[int]) -> _Cells:
        """Look at some shards of band i, but for the cells that are stored."""
        settings = self.layout.settings
        (row, to_row), _ = self.layout.shard_ranges(0, i, 0)
        shape = cell_shape((to_row - row, self.layout.scene.shape[1]))
        counts = np.zeros((*shape, len(settings.classes)), np.uint16)
        moments = np.zeros((*shape, settings.bands, 3))
        seen_hw, ignored = np.zeros(shape, np.bool_), 0
        for j in columns:
            planes = self._planes(i, j)
            if planes is None:
                continue
            _, (col, to_col) = self.layout.shard_ranges(0, i, j)
            here = np.s_[:, col // CELL:-(-to_col // CELL)]
            seen_hw[here], moments[here] = True, cell_moments(planes["image"], planes.get("valid"))
            if "mask" in planes:
                counts[here] = cell_counts(planes["mask"], len(settings.classes))
                ignored += self._check_labels(planes["mask"], planes.get("valid"), row, col)
            self._compare_levels(planes, row, col)
        return _Cells(counts=counts, moments=moments, seen_hw=seen_hw, ignored=ignored)

    def _check_labels(self, mask_HW: Array, valid_HW: Array | None, row: int, col: int) -> int:
        """Look at the labels of a shard that begins at (row, col); returns how many are ignored."""
        ignored_HW = mask_HW == self.layout.settings.ignore
        unknown_HW = (mask_HW >= len(self.layout.settings.classes)) & ~ignored_HW
        self.findings.differ("array 0/mask: neither a class nor ignored in {} pixels", unknown_HW, row, col)
        if valid_HW is not None:
            self.findings.differ("array 0/mask: not ignored in {} pixels that are not valid", ~(valid_HW | ignored_HW),
                                 row, col)
        return int(np.count_nonzero(ignored_HW))

    def _compare_levels(self, planes: Mapping[str, Array], row: int, col: int) -> None:
        """Hold all coarser levels against a shard of full resolution that begins at (row, col)."""
        side, levels = self.layout.settings.shard, range(1, self.layout.scene.levels)
        for name, reduced in (reduce(planes, levels) if levels else {}).items():
            for level, made in reduced.items():
                top, left = row >> level, col >> level
                array = f"{level}/{name}"
                stored = self._read(array, np.s_[..., top:top + made.shape[-2], left:left + made.shape[-1]],
                                    _shard(array, top // side, left // side))
                if stored is not None:
                    unlike = stored != made
                    self.findings.differ(f"array {array}: not what full resolution gives in {{}} pixels",
                                         unlike.any(axis=0) if unlike.ndim == 3 else unlike, top, left)

    def _compare_cells(self, i: int, cells: _Cells) -> None:
        first = i * self.layout.settings.shard // CELL
        stop = first + len(cells.seen_hw)
        for name, made, of in (("counts", cells.counts, "mask"), ("moments", cells.moments, "image")):
            stored = self._read(name, np.s_[first:stop], "/".join([name, "c", str(i), *"0" * (made.ndim - 1)]))
            if stored is not None:
                unlike_hw = (stored != made).any(axis=tuple(range(2, made.ndim))) & cells.seen_hw
                self.findings.differ(f"array {name}: not what array 0/{of} gives in {{}} cells", unlike_hw, first, 0)

    def _compare_totals(self, bands: Sequence[_Totals]) -> None:
        sums = np.sum([band.band_sums for band in bands], axis=0)  # band by band, as in the ingest
        class_pixels = np.sum([band.class_pixels for band in bands], axis=0)
        scene = self.layout.scene
        for name, stored, made in (
                ("class_pixels", scene.class_pixels, tuple(class_pixels.tolist())),
                ("band_sums", scene.band_sums, tuple(map(tuple, sums.tolist()))),
                ("ignored", scene.ignored, sum(band.ignored for band in bands))):
            if stored != made:
                self.findings.say(f"attribute {name} is {stored}, but the pixels give {made}")

    def _planes(self, i: int, j: int) -> dict[str, Array] | None:
        """All planes of a shard of full resolution; None where one of them cannot be read."""
        (row, to_row), (col, to_col) = self.layout.shard_ranges(0, i, j)
        planes: dict[str, Array] = {}
        for name in self.layout.planes():
            values = self._read(f"0/{name}", np.s_[..., row:to_row, col:to_col], _shard(f"0/{name}", i, j))
            if values is not None:
                planes[name] = values
        return planes if len(planes) == len(self.layout.planes()) else None

    def _read(self, array: str, part: Any, file: str) -> Array | None:
        """A part of an array that lies in one file; None where it cannot be read, which is said once."""
        if array not in self._handles:
            self._handles[array] = self._open(array)
        handle = self._handles[array]
        if handle is None:
            return None
        try:
            values: Array = handle[part].read().result()
        except locations.FAILURES as error:
            self.findings.broken(file, f"cannot be decoded ({locations.plain(error)})")
            return None
        return values

    def _open(self, array: str) -> ts.TensorStore | None:
        spec = locations.array(self.uri, array_path(self.layout.scene, array))
        try:
            return ts.open({**spec, "metadata": self.layout.constraint(array)}, read=True,
                           context=self._context).result()
        except locations.FAILURES as error:
            self.findings.broken(f"{array}/{META}", f"the array cannot be opened ({locations.plain(error)})")
            return None


def _shard(array: str, i: int, j: int) -> str:
    """The file of a shard; all bands of an image lie in one."""
    return f"{array}/c/0/{i}/{j}" if array.endswith("image") else f"{array}/c/{i}/{j}"
