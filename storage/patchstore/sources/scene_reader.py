"""One scene as an ingest reads it: the pixels of its files stacked, which of them are real, and its labels, by rows."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling

from patchstore.format.schema import DTYPES
from patchstore.format.windows import Range
from patchstore.sources.grid import Grid, OnGrid, open_on
from patchstore.sources.labels import LabelReader, check_labels
from patchstore.sources.masks import Counts, MaskCoding
from patchstore.sources.raster import RasterInfo, content_files, info_of, open_dataset, read_pixels
from patchstore.sources.scene_source import SceneSource

Array = NDArray[Any]


class Stack:
    """The image files of a scene as one raster: bands in the files' order. Use it as a context manager."""

    def __init__(self, source: SceneSource) -> None:
        """Raises SourceError when a file cannot be read or does not lie on the first one's grid."""
        with ExitStack() as closing:
            first = open_dataset(source.image)
            closing.callback(first.close)
            self.grid = Grid.of(source.image, first, source.crs)
            self._layers = [(OnGrid(first, first), info_of(first))]
            for path in source.stacked:
                layer = open_on(self.grid, path, Resampling.bilinear, align=source.align)
                closing.callback(layer.close)
                info = info_of(layer.source)  # a warped file may not reach all of the grid
                self._layers.append((layer, replace(info, has_valid=True) if layer.warped else info))
            self._closing = closing.pop_all()
        self.notes = (*(layer.note for layer, _ in self._layers if layer.warped),
                      *(f"{Path(layer.source.name).name}: a band marked as opacity is taken for a band like the others"
                        for layer, _ in self._layers if ColorInterp.alpha in layer.source.colorinterp))
        infos = [info for _, info in self._layers]
        self.info = replace(infos[0], bands=sum(info.bands for info in infos), crs=_wkt(self.grid),
                            dtype=common_dtype([info.dtype for info in infos]),
                            has_valid=any(info.has_valid for info in infos))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def pixels(self, rows: Range, cols: Range) -> tuple[Array, Array | None]:
        """(image_BHW in the stack's dtype, valid_HW where some may not be real) of a window: valid where all files are.

        Each block of a file is decoded once, in one reading of the window. Raises SourceError.
        """
        if len(self._layers) == 1:
            only, info = self._layers[0]
            return read_pixels(only.dataset, rows, cols, info, valid=True)
        shape = (rows[1] - rows[0], cols[1] - cols[0])
        image_BHW = np.empty((self.info.bands, *shape), self.info.dtype)
        valid_HW = np.ones(shape, np.bool_) if self.info.has_valid else None
        first = 0
        for layer, info in self._layers:
            bands_BHW, real_HW = read_pixels(layer.dataset, rows, cols, info, valid=True)
            image_BHW[first:first + info.bands] = bands_BHW
            first += info.bands
            if valid_HW is not None and real_HW is not None:
                valid_HW &= real_HW
        return image_BHW, valid_HW

    def files(self) -> tuple[Path, ...]:
        """The files whose content decides the pixels, in a fixed order."""
        return tuple(path for layer, _ in self._layers for path in content_files(layer.source))

    def settings(self) -> tuple[str, ...]:
        """What decides the pixels besides the files' content, as text: nodata may stand in a side file that viewers
        write to as well, and the georeference of a file that is warped in another one.
        """
        return tuple(f"nodata={layer.source.nodatavals}{layer.place}" for layer, _ in self._layers)


class SceneReader:
    """The open files of one scene. Use it as a context manager; it is neither pickled nor carried across a fork."""

    def __init__(self, source: SceneSource, coding: MaskCoding, ignore: int) -> None:
        """Raises SourceError when a file cannot be read, does not lie on the image's grid (and is not to be aligned),
        or is not of the coding's kind.
        """
        with ExitStack() as closing:
            self._stack = closing.enter_context(Stack(source))
            self._labels = closing.enter_context(LabelReader(source, coding, ignore, self._stack.grid))
            self._closing = closing.pop_all()
        self.info: RasterInfo = self._stack.info
        """Of the stack: its shape, bands, dtype, CRS and transform."""
        self.notes: tuple[str, ...] = (*self._stack.notes, *self._labels.notes)
        """What was done to the files that a report must say."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def pixels(self, rows: Range, cols: Range) -> tuple[Array, Array | None]:
        """(image_BHW, valid_HW or None) of a window; floats that are not finite are not valid, and read as 0.

        One file declared without nodata, of whole numbers and on the image's grid: all are valid, and the second is
        None. Raises SourceError.
        """
        return self._stack.pixels(rows, cols)

    def labels(self, rows: Range) -> tuple[NDArray[np.uint8] | None, Counts]:
        """(labels_HW, pixels of each ignored value) of a band of rows, all columns; None for a scene without a mask.

        Labels outside the area of interest are ignored. Raises SourceError, also on values that nobody declared.
        """
        return self._labels.decode(rows)

    def files(self) -> tuple[Path, ...]:
        """Every file whose content decides pixels or labels, in a fixed order: for a fingerprint."""
        return *self._stack.files(), *self._labels.files()

    def settings(self) -> tuple[str, ...]:
        """What decides pixels and labels besides the files' content, as text without paths: for a fingerprint."""
        placed = [self._stack.grid.place] if self.notes or self._labels.places_matter else []
        roles = f"{len(self._stack.files())} files of pixels"
        return roles, *self._stack.settings(), *self._labels.settings(), *placed


def common_dtype(dtypes: Sequence[str]) -> str:
    """The smallest type of a store that holds all values of some others exactly."""
    found = str(np.result_type(*dtypes))
    return found if found in DTYPES else "float32"  # int32, of uint16 and int16: 16 bits and a sign fit its 24


def inspect(source: SceneSource, coding: MaskCoding | None = None) -> RasterInfo:
    """What the headers of a scene's files say of its stack.

    Raises SourceError when a file cannot be read or does not fit; with a coding also when its labels are not of that
    kind. Values are not looked at.
    """
    with Stack(source) as stack:
        if coding is None:
            check_labels(source, stack.grid)
        else:
            with LabelReader(source, coding, 255, stack.grid):
                pass
        return stack.info


def _wkt(grid: Grid) -> str | None:
    return None if grid.crs is None else str(grid.crs.to_wkt())
