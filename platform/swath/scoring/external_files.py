"""Which files of a folder are the maps of which scenes of a store.

A file's name is its stem, alone or after the folders that it lies in (north_1 for north/1.tif). A scene is served by
the file of its own name, else by the one whose name goes on after it with `_` or `.` (north_1_pred.tif); several such
are its tiles. Those are no other scene's, even where they show its ground: they may be of another date. A scene without
any is served by all files that have no scene's name and show some of its ground.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling

from patchstore import Store
from patchstore.sources import Grid, Header, bounds, open_on, rasters, span
from swath.errors import DataError
from swath.geometry import Range

Place = tuple[Range, Range]
"""Rows and columns of a scene outside which a file has nothing."""
_PICTURES = (".png", ".jpg", ".jpeg")
_SHOWN = 5
"""Files that a sentence lists; beyond it, how many more there are."""


class Finder:
    """Which files serve which scene."""

    def __init__(self, root: Path, store: Store, headers: Mapping[Path, Header]) -> None:
        """`root`: the folder of the files, or the only one."""
        self._root = root
        exact: dict[str, list[Header]] = {}
        begun: dict[str, list[Header]] = {}
        free: list[Header] = []
        self._scene_of: dict[Path, str] = {}
        for path, header in headers.items():
            names = self._names(path)
            starts = (start for name in names for start in _starts(name) if start in store.scenes)
            if whole := next((name for name in names if name in store.scenes), None):
                exact.setdefault(whole, []).append(header)
                self._scene_of[path] = whole
            elif start := max(starts, key=len, default=None):
                begun.setdefault(start, []).append(header)
                self._scene_of[path] = start
            else:
                free.append(header)
        self._named = begun | exact  # what stands beside a file of a scene's own name is its confidence, or the like
        self._free = _Places([header for header in free if _placed(header.grid)])

    def of(self, scene: str, grid: Grid) -> list[tuple[Header, Place]]:
        """The files of a scene on a grid, by name, and where in the scene each lies.

        Raises DataError or SourceError for a file of the scene's name that is not its map, or several that cannot be.
        """
        named = self._named.get(scene, [])
        placed = _placed(grid)
        if len(named) == 1:
            open_on(grid, named[0].path, Resampling.nearest, align=True).close()  # raises where that cannot be
            there = _span(named[0].grid, grid)
            if there is None:
                raise DataError(f"{named[0].path}: has the name of scene {scene}, but lies elsewhere; give the map of "
                                "that scene, or another name")
            return [(named[0], there)]
        if named and not (placed and any(_placed(header.grid) for header in named)):
            bare = "have no georeference" if placed else "it has no CRS"
            raise DataError(f"{self._root}: {listed([str(header.path) for header in named])} have the name of scene "
                            f"{scene}, but {bare} by which they could be its tiles; leave one")
        if not placed:
            return []
        near = [header for header in named if _placed(header.grid)] or self._free.near(grid)
        spans = ((header, span(header.grid, grid)) for header in near)
        return [(header, there) for header, there in spans if there is not None]

    def of_others(self, scenes: Collection[str]) -> set[Path]:
        """The files that have the name of a scene that is none of these."""
        return {path for path, scene in self._scene_of.items() if scene not in scenes}

    def _names(self, path: Path) -> list[str]:
        """The names that a file may go by, the longest first."""
        folders = path.relative_to(self._root).parts[:-1] if path != self._root else ()
        return ["_".join((*folders[first:], path.stem)) for first in range(len(folders) + 1)]


class _Places:
    """Which of many files lie near a scene: those whose bounds meet its own, at the price of one reprojection a scene
    and CRS."""

    def __init__(self, headers: Sequence[Header]) -> None:
        """`headers`: of files with CRS and transform, which come out in this order."""
        by_crs: dict[str, list[int]] = {}
        self._headers = headers
        for index, header in enumerate(headers):
            assert header.grid.crs is not None
            by_crs.setdefault(header.grid.crs.to_wkt(), []).append(index)
        self._of_crs: list[tuple[CRS, NDArray[np.int64], NDArray[np.float64]]] = []
        for indices in by_crs.values():
            crs = headers[indices[0]].grid.crs
            boxes = [bounds(headers[index].grid, crs) for index in indices]
            self._of_crs.append((crs, np.array(indices), np.array(boxes)))

    def near(self, grid: Grid) -> list[Header]:
        """Those that may have ground of a scene with CRS and transform."""
        found: list[int] = []
        for crs, index_N, box_N4 in self._of_crs:
            if (box := bounds(grid, crs)) is None:
                continue
            left, bottom, right, top = box
            more = 0.01 + 2 / min(grid.shape)  # edges may bend between the places that are reprojected
            x_more, y_more = (right - left) * more, (top - bottom) * more
            meet_N = ((box_N4[:, 0] <= right + x_more) & (box_N4[:, 2] >= left - x_more)
                      & (box_N4[:, 1] <= top + y_more) & (box_N4[:, 3] >= bottom - y_more))
            found += index_N[meet_N].tolist()
        return [self._headers[index] for index in sorted(found)]


def _starts(name: str) -> Iterator[str]:
    """What a name begins with, cut at each `_` and `.`."""
    return (name[:cut.start()] for cut in re.finditer(r"[_.]", name))


def _placed(grid: Grid) -> bool:
    return grid.crs is not None and grid.transform is not None


def _span(grid: Grid, image: Grid) -> Place | None:
    if grid.transform is None or image.transform is None:  # it has the scene's shape
        return (0, image.shape[0]), (0, image.shape[1])
    return span(grid, image)


def find_files(path: Path) -> tuple[list[Path], list[str]]:
    """(rasters, notes) of a file or a folder. Raises DataError where there are none."""
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; give a raster of classes, or a folder of them")
    found = rasters(path, deep=True)
    maps = {file.with_suffix("") for file in found if file.suffix.lower() not in _PICTURES}
    files = [file for file in found if file.suffix.lower() not in _PICTURES or file.with_suffix("") not in maps]
    if not files:
        raise DataError(f"{path}: has no rasters; give a folder of maps, or one map")
    left = len(found) - len(files)
    return files, [f"{several(left, 'picture')} beside a raster of the same name left out"] * bool(left)


def several(count: int, noun: str) -> str:
    """A number of things: 1 scene, 2 scenes."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: the first few, and how many more."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
