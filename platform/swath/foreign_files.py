"""Which files of a folder are the maps of which scenes of a store.

A file's name is its stem, alone or after the folders that it lies in (north_1 for north/1.tif). A scene is served by
the file of its own name, else by the one whose name goes on after it with `_` or `.` (north_1_pred.tif); several such
are its tiles. Those are no other scene's, even where they show its ground: they may be of another date. A scene without
any is served by all files that have no scene's name and show some of its ground.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rasterio.enums import Resampling

from patchstore import Store
from patchstore.class_raster import span
from patchstore.grid import Grid, open_on
from patchstore.legends import Header
from patchstore.listing import rasters
from swath.errors import DataError

Range = tuple[int, int]
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
        for path, header in headers.items():
            names = self._names(path)
            starts = (scene for scene in store.scenes
                      if any(name.startswith((f"{scene}_", f"{scene}.")) for name in names))
            if whole := next((name for name in names if name in store.scenes), None):
                exact.setdefault(whole, []).append(header)
            elif start := max(starts, key=len, default=None):
                begun.setdefault(start, []).append(header)
            else:
                free.append(header)
        self._named = begun | exact  # what stands beside a file of a scene's own name is its confidence, or the like
        self._free = free

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
        if not placed:
            if named:
                raise DataError(f"{self._root}: {listed([str(header.path) for header in named])} have the name of "
                                f"scene {scene}, which has no CRS by which they could be its tiles; leave one")
            return []
        spans = ((header, span(header.grid, grid)) for header in named or self._free if _placed(header.grid))
        return [(header, there) for header, there in spans if there is not None]

    def _names(self, path: Path) -> list[str]:
        """The names that a file may go by, the longest first."""
        folders = path.relative_to(self._root).parts[:-1] if path != self._root else ()
        return ["_".join((*folders[first:], path.stem)) for first in range(len(folders) + 1)]


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
    return files, [f"{left} pictures beside a raster of the same name were left out"] * bool(left)


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: the first few, and how many more."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
