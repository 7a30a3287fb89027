"""Maps that other tools made, as predictions to be scored: class rasters, aligned to a store's scenes.

Which files serve a scene says swath.foreign_files, what their values mean patchstore.legends. Where several serve one,
each fills, in the order of their names, what those before it leave. Only the rows that are asked for are read, and
nothing of a file is kept.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from patchstore import ClassInfo, Store
from patchstore.sources import ClassRaster, Grid, Header, Legend, misfit, read_header, read_legend
from swath.errors import ConfigError, DataError
from swath.geometry import Range
from swath.scoring.counting import NO_PREDICTION, Region
from swath.scoring.external_files import Finder, find_files, listed, several

STRIP = 512
"""Most rows that are read at once."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A file that serves a scene."""

    header: Header
    legend: Legend
    rows: Range
    """Rows of the scene outside which the file has nothing."""
    cols: Range
    """Columns outside which it has nothing."""


@dataclass(frozen=True, kw_only=True)
class _Served:
    """A scene, and the files that its map comes from: by name, earlier ones first."""

    grid: Grid
    parts: tuple[_Part, ...]


class ExternalMaps:
    """Maps of a store's scenes. `source` is a `counting.Predictions`."""

    def __init__(self, served: Mapping[str, _Served], classes: Sequence[ClassInfo], notes: Sequence[str]) -> None:
        """See `open`."""
        self._served, self._classes, self._notes = served, tuple(classes), tuple(notes)
        self._disagreeing: dict[Region, int] = {}

    @classmethod
    def open(cls, path: Path, store: Store, scenes: Sequence[str], *, table: Mapping[str, str]) -> Self:
        """Find the maps of some scenes: in a raster (also a .vrt), or in a folder and those below it.

        `table`: the class of a value, of a colour #RRGGBB or of a name that a file has; empty for none. Headers are
        read, pixels are not. Raises ConfigError for a table that names what neither the store nor a file has, DataError
        when no file serves any of the scenes or one of a scene's name cannot be its map, SourceError for a file that
        cannot be read or is no map of classes.
        """
        files, notes = find_files(Path(path))
        headers = {file: read_header(file) for file in files}
        codes = _codes(table, store, list(headers.values()))
        finder = Finder(Path(path), store, headers)
        legends: dict[Path, Legend] = {}
        served: dict[str, _Served] = {}
        for name in dict.fromkeys(scenes):
            scene = store.scenes[name]
            grid = Grid.described(name, scene.shape, scene.crs, scene.transform)
            found = finder.of(name, grid)
            for header, _ in found:
                if header.path not in legends:
                    legends[header.path] = read_legend(header, store.classes, codes)
            parts = tuple(_Part(header=header, legend=legends[header.path], rows=rows, cols=cols)
                          for header, (rows, cols) in found)
            served[name] = _Served(grid=grid, parts=parts)
        if not legends:
            raise DataError(f"{path}: {several(len(files), 'raster')}, none with the name of one of the scenes "
                            f"({listed(list(served))}), or with a CRS and on the ground of one that has such too")
        notes += [*_served_notes(served), *_legend_notes(legends, store.classes)]
        elsewhere = finder.of_others(served)
        unused = [file.name for file in files if file not in legends and file not in elsewhere]
        if unused:
            notes.append(f"not used, as no scene of the split needs it: {several(len(unused), 'raster')} "
                         f"({listed(unused)})")
        return cls(served, store.classes, notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for a report: which files serve which scenes and what was done to them, what their values were
        taken for, scenes without a file; and, of what was read so far, where the files of a scene disagree."""
        pixels = Counter[str]()
        for region, count in self._disagreeing.items():
            pixels[region.scene] += count
        return *self._notes, *(f"{scene}: its files disagree on {several(count, 'pixel')}, which have the class of the "
                               "first by name" for scene, count in sorted(pixels.items()) if count)

    def source(self, regions: Sequence[Region]) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """The classes of regions of the scenes that were asked for at first, NO_PREDICTION where no file has any:
        (index of the region, first row in the scene, classes_hW over the region's columns).

        Regions in order, each from top to bottom. Raises SourceError when a file cannot be read, or has a value whose
        meaning nobody said.
        """
        with _Open(self._classes) as opened:
            for index, region in enumerate(regions):
                served, row, disagreeing = self._served[region.scene], region.rows[0], 0
                while row < region.rows[1]:
                    past = min((row // STRIP + 1) * STRIP, region.rows[1])
                    classes_hW, differing = _strip(served, (row, past), region.cols, opened)
                    disagreeing += differing
                    yield index, row, classes_hW
                    row = past
                self._disagreeing[region] = disagreeing


class _Open:
    """The files that are open, on the grid of the scene that is read. Use it as a context manager."""

    def __init__(self, classes: Sequence[ClassInfo]) -> None:
        self._classes = classes
        self._grid: Grid | None = None
        self._rasters: dict[Path, ClassRaster] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._keep(())

    def on(self, grid: Grid, parts: Sequence[_Part]) -> list[ClassRaster]:
        """Some files on a scene's grid, opened where they are not; the others are closed, as a mosaic may have more
        tiles than a process may have open."""
        if grid is not self._grid:
            self._keep(())
            self._grid = grid
        self._keep([part.header.path for part in parts])
        for part in parts:
            if part.header.path not in self._rasters:
                self._rasters[part.header.path] = ClassRaster(part.header, part.legend, grid, self._classes,
                                                              NO_PREDICTION)
        return [self._rasters[part.header.path] for part in parts]

    def _keep(self, paths: Sequence[Path]) -> None:
        with ExitStack() as closing:  # all of them, even if closing one fails
            for path in self._rasters.keys() - set(paths):
                closing.callback(self._rasters.pop(path).close)


def _strip(served: _Served, rows: Range, cols: Range, opened: _Open) -> tuple[NDArray[np.uint8], int]:
    """(classes_hW of a stretch of a scene, pixels on which its files disagree)."""
    classes_hW = np.full((rows[1] - rows[0], cols[1] - cols[0]), NO_PREDICTION, np.uint8)
    disagreeing = 0
    here = [(part, _common(part.rows, rows), _common(part.cols, cols)) for part in served.parts]
    here = [(part, high, wide) for part, high, wide in here if high[0] < high[1] and wide[0] < wide[1]]
    for raster, (_, high, wide) in zip(opened.on(served.grid, [part for part, *_ in here]), here):
        found_hw = raster.read(high, wide)
        view_hw = classes_hW[high[0] - rows[0]:high[1] - rows[0], wide[0] - cols[0]:wide[1] - cols[0]]
        free_hw = view_hw == NO_PREDICTION
        disagreeing += int(np.count_nonzero(~free_hw & (found_hw != NO_PREDICTION) & (found_hw != view_hw)))
        np.copyto(view_hw, found_hw, where=free_hw)
    return classes_hW, disagreeing


def _common(one: Range, other: Range) -> Range:
    return max(one[0], other[0]), min(one[1], other[1])


def _codes(table: Mapping[str, str], store: Store, headers: Collection[Header]) -> dict[str, int]:
    """The table by class indices, NO_PREDICTION for none. Raises ConfigError when something in it does not exist."""
    index_of = {info.name: index for index, info in enumerate(store.classes)} | {"": NO_PREDICTION}
    unknown = sorted({name for name in table.values() if name not in index_of})
    if unknown:
        raise ConfigError(f"map-classes: {store.uri} has no class {', '.join(unknown)}; it has "
                          f"{', '.join(info.name for info in store.classes)}")
    absent = [key for key in table if not any(header.values_of(key) for header in headers)]
    if absent:
        raise ConfigError(f"map-classes: {', '.join(absent)} is neither a number, nor a colour or a name that a map "
                          "has")
    return {key: index_of[name] for key, name in table.items()}


def _served_notes(served: Mapping[str, _Served]) -> list[str]:
    """Which files serve which scenes, and how; scenes that are served alike by files of their names are counted."""
    alike: Counter[str] = Counter()
    notes: list[str] = []
    for scene, found in served.items():
        hows = [_how(part.header.grid, found.grid) for part in found.parts]
        files = [part.header.path for part in found.parts]
        if len(files) == 1 and files[0].stem == scene and not hows[0].startswith("warped"):
            alike[hows[0]] += 1
        elif len(files) == 1:
            notes.append(f"{scene}: from {files[0]}, {hows[0]}")
        elif files:
            warped = sum(how.startswith("warped") for how in hows)
            notes.append(f"{scene}: from {len(files)} files on its ground ({listed([file.name for file in files])}), "
                         f"{warped or 'none'} of them warped to its grid (nearest)")
    absent = [scene for scene, found in served.items() if not found.parts]
    by_name = (f"{several(count, 'scene')}: each from the file of its name, {how}"
               for how, count in sorted(alike.items()))
    return [*by_name, *notes,
            *[f"no file serves {', '.join(absent)}: all of their pixels are uncovered"] * bool(absent)]


def _how(grid: Grid, image: Grid) -> str:
    if differs := misfit(grid, image):
        return f"warped to its grid (nearest): the file {differs}"
    if image.transform is not None and grid.transform is None:
        return "pixel by pixel, as it has no georeference"
    return "on its grid"


def _legend_notes(legends: Mapping[Path, Legend], classes: Sequence[ClassInfo]) -> list[str]:
    """What the values of maps were taken for."""
    said = {"table": "by the table", "names": "by the names in the file", "colours": "by the classes' colours",
            "indices": "taken for class indices, as the file names no classes "
                       f"({', '.join(f'{index} {info.name}' for index, info in enumerate(classes))})"}
    counts = Counter(legend.how for legend in legends.values())
    notes = [f"values of {several(count, 'map')}: {said[how]}" for how, count in sorted(counts.items())]
    clashes = sorted({(legend.nodata or 0, legend.clash) for legend in legends.values() if legend.clash})
    return notes + [f"nodata {nodata:g} of a map is the value of {name} too, and is taken for nothing; if it is that "
                    f"class, say so: --map-classes '{nodata:g}={name}'" for nodata, name in clashes]
