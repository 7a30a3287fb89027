"""Class rasters made by any tool, read as classes on a scene's grid, by windows; and where they lie on it.

A file's nodata, what its mask or alpha band leaves out, and NaN are no class: nothing is said there.
Legend: B bands; H, W rows and columns of a window; V known values; M points.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import MaskFlags, Resampling
from rasterio.warp import transform

from patchstore.errors import SourceError
from patchstore.format.schema import ClassInfo
from patchstore.format.windows import Range
from patchstore.sources.grid import Grid, open_on
from patchstore.sources.raster import reading
from patchstore.sources.value_meanings import Header, Legend

Array = NDArray[Any]
_SHOWN = 10
"""Unknown values that a message lists; beyond it, how many more there are."""
_AT_ONCE = 1 << 18
"""Pixels that are decoded at once: what is made on the way takes 25 bytes a pixel."""
_POINTS = 32
"""Places of an edge that are reprojected to find its extent."""


class ClassRaster:
    """An open class raster on a scene's grid; one on another is warped there, to the nearest pixel.

    Whoever opens it closes it. It is neither pickled nor shared by threads.
    """

    def __init__(self, header: Header, legend: Legend, image: Grid, classes: Sequence[ClassInfo], nothing: int) -> None:
        """`nothing`: what is read where the file says nothing. Raises SourceError when it cannot be aligned."""
        self._header, self._legend, self._nothing = header, legend, nothing
        self._classes, self._image = classes, image
        known = sorted(legend.codes)
        self._known_V = np.array(known, np.int64)
        self._codes_V = np.array([legend.codes[value] for value in known], np.uint8)
        self._file = open_on(image, header.path, Resampling.nearest, align=True)
        masked = MaskFlags.per_dataset in self._file.source.mask_flag_enums[0]
        self._masked = masked and not self._file.warped

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, rows: Range, cols: Range) -> NDArray[np.uint8]:
        """Classes of a window of the scene: uint8 (rows, cols).

        Raises SourceError when the file cannot be read, or has a value whose meaning nobody said.
        """
        with reading(self._header.path):
            bands_BHW: Array = self._file.dataset.read(window=(rows, cols))
            if self._file.warped:  # its last band is alpha
                said_HW = bands_BHW[-1] != 0
            elif self._masked:
                said_HW = self._file.dataset.read_masks(1, window=(rows, cols)) != 0
            else:
                said_HW = np.ones(bands_BHW.shape[1:], np.bool_)
        classes_HW = np.full(said_HW.shape, self._nothing, np.uint8)
        step = max(1, _AT_ONCE // said_HW.shape[1])
        for row in range(0, len(said_HW), step):
            part = slice(row, row + step)
            self._decode(self._values(bands_BHW[:len(self._header.dtypes), part]), said_HW[part], classes_HW[part])
        return classes_HW

    def _values(self, bands_BHW: Array) -> Array:
        if not self._header.coloured:
            only_HW: Array = bands_BHW[0]
            return only_HW
        red, green, blue = (band.astype(np.int32) for band in bands_BHW)
        colours_HW: Array = red << 16 | green << 8 | blue
        return colours_HW

    def _decode(self, values_HW: Array, said_HW: NDArray[np.bool_], out_HW: NDArray[np.uint8]) -> None:
        """Write the classes of values where they say anything."""
        if values_HW.dtype.kind == "f":
            said_HW = said_HW & np.isfinite(values_HW)
        if self._legend.nodata is not None:
            with np.errstate(over="ignore"):  # one beyond a float32 is infinite there, and so is the file's
                said_HW = said_HW & (values_HW != self._legend.nodata)
        places_HW = np.searchsorted(self._known_V, values_HW).clip(max=len(self._known_V) - 1)
        strange_HW = said_HW & (self._known_V[places_HW] != values_HW)
        if strange_HW.any():
            raise self._unknown(np.unique(values_HW[strange_HW]))
        np.copyto(out_HW, self._codes_V[places_HW], where=said_HW)

    def _unknown(self, values_V: Array) -> SourceError:
        path, values = self._header.path, [value.item() for value in values_V]
        broken = next((value for value in values if value != int(value)), None)
        if broken is not None:
            return SourceError(f"{path}: has the value {broken:g}, but a map holds the numbers of classes; give the "
                               "class of the highest score, not scores")
        texts = [self._text(int(value)) for value in values[:_SHOWN]]
        more = f" and {len(values) - _SHOWN:,} more" if len(values) > _SHOWN else ""
        key = f"#{int(values[0]):06X}" if self._header.coloured else str(int(values[0]))
        return SourceError(
            f"{path}: {', '.join(texts)}{more} in scene {self._image.path} stands for no class "
            f"({', '.join(info.name for info in self._classes)}); say what each value is: --map-classes '{key}=CLASS' "
            f"('{key}=' for none)")

    def _text(self, value: int) -> str:
        """A value as a message shows it, with the name or colour that the file gives it."""
        if self._header.coloured:
            return f"#{value:06X}"
        name = self._header.names.get(value, "")
        if not name and value in self._header.palette:
            name = f"#{self._header.palette[value]:06X}"
        return f"{value} ({name})" if name else str(value)


def span(grid: Grid, image: Grid) -> tuple[Range, Range] | None:
    """Rows and columns of a scene outside which a raster has nothing; None where it lies elsewhere.

    The raster and the scene have a transform; where only one of them has a CRS it is taken for the other's too. A
    little more than the raster covers: two pixels, and a hundredth of its extent, for edges that bend between the
    places that are reprojected. Raises SourceError when the CRS of the two do not go together.
    """
    crs = grid.crs or image.crs
    col_M, row_M = grid.to_pixels(*_outline(image, ((0, image.shape[0]), (0, image.shape[1])), crs))
    part = _extent(row_M, col_M, grid.shape)
    if part is None:
        return None
    x_M, y_M = _outline(grid, part, image.crs or crs)
    if not (np.isfinite(x_M) & np.isfinite(y_M)).all():
        return (0, image.shape[0]), (0, image.shape[1])
    col_M, row_M = image.to_pixels(x_M, y_M)
    return _extent(row_M, col_M, image.shape)


def bounds(grid: Grid, crs: CRS) -> tuple[float, float, float, float] | None:
    """Left, bottom, right and top of a raster with CRS and transform in another CRS, as far as that has coordinates for
    its edges; None where it has none. Edges are followed at 32 places each: where they bend, a little may lie outside.
    Raises SourceError when the two CRS do not go together."""
    x_M, y_M = _outline(grid, ((0, grid.shape[0]), (0, grid.shape[1])), crs)
    there_M = np.isfinite(x_M) & np.isfinite(y_M)
    if not there_M.any():
        return None
    x_M, y_M = x_M[there_M], y_M[there_M]
    return float(x_M.min()), float(y_M.min()), float(x_M.max()), float(y_M.max())


@lru_cache(maxsize=4096)
def _outline(grid: Grid, part: tuple[Range, Range], crs: CRS | None) -> Array:
    """Places along the edges of a part of a grid, (2, M), in a CRS: not finite where that has no coordinates."""
    (top, bottom), (left, right) = part
    along_M = np.linspace(0, 1, _POINTS)
    across = left + along_M * (right - left)
    down = top + along_M * (bottom - top)
    col_M = np.concatenate([across, across, np.full(_POINTS, left), np.full(_POINTS, right)])
    row_M = np.concatenate([np.full(_POINTS, top), np.full(_POINTS, bottom), down, down])
    xy_2M = grid.to_xy(col_M, row_M)
    if grid.crs is None or crs is None or grid.crs == crs:
        return xy_2M
    with reading(grid.path, f"cannot be brought to {crs.to_string()}"):
        return np.array(transform(grid.crs, crs, *xy_2M))


def _extent(row_M: Array, col_M: Array, shape: tuple[int, int]) -> tuple[Range, Range] | None:
    """Rows and columns of a raster of some shape that points lie around, and some more; None where there are none."""
    ranges: list[Range] = []
    for place_M, length in ((row_M, shape[0]), (col_M, shape[1])):
        place_M = place_M[np.isfinite(place_M)]
        if not len(place_M):
            return None
        low, high = float(place_M.min()), float(place_M.max())
        if high <= 0 or low >= length:
            return None
        more = 2 + (high - low) / 100
        ranges.append((max(0, int(np.floor(low - more))), min(length, int(np.ceil(high + more)))))
    return ranges[0], ranges[1]
