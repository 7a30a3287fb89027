"""Reading rasters of any format that GDAL knows, by windows; with 64 MB of its cache, or $GDAL_CACHEMAX."""

import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what GDAL raises in a warp, and no public name has
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from patchstore.errors import SourceError
from patchstore.format.pyramid import area_mean, fill_level
from patchstore.format.schema import DTYPES, Affine
from patchstore.format.windows import (
    Range,
    check_range,
    direct,
    finish_pixels,
    level_shape,
    levels_of,
    locate,
    pixel_ranges,
)

Array = NDArray[Any]
SIDECARS = (".aux.xml", ".ovr", ".prj", ".wld", ".tfw", ".tifw", ".tiffw", ".jgw", ".jpgw", ".jpegw", ".pgw", ".pngw",
            ".pgwx")
"""Endings of files beside a raster that do not decide its pixels."""
ENDINGS = (".tif", ".tiff", ".vrt", ".img", ".jp2", ".j2k", ".ntf", ".asc", ".bil", ".webp", ".png", ".bmp", ".gif",
           ".jpg", ".jpeg")
"""Endings of files that GDAL reads and that are commonly rasters of their own, not a part of another."""
_opening = threading.Lock()  # warnings.catch_warnings changes what all threads see


@dataclass(frozen=True, kw_only=True)
class RasterInfo:
    """What a raster's header says."""

    shape: tuple[int, int]
    bands: int
    dtype: str
    crs: str | None
    """Coordinate reference system as WKT."""
    transform: Affine | None
    has_valid: bool
    """Whether some pixels may not be real: nodata or an internal mask is declared, or the pixels are floats (where NaN
    and infinities are not real)."""


def bound_cache() -> None:
    """Have GDAL cache 64 MB of blocks, not a twentieth of the machine; $GDAL_CACHEMAX overrides.

    GDAL looks at the variable when it first needs its cache. As an option of rasterio's Env it would hold for all
    threads, and end for all when the first of them left its Env.
    """
    os.environ.setdefault("GDAL_CACHEMAX", "64")


@contextmanager
def reading(path: str | os.PathLike[str], what: str = "cannot be read as a raster") -> Iterator[None]:
    """Within it GDAL's settings are ours, and its errors become a SourceError that names the file."""
    bound_cache()
    try:
        # GDAL's way of reading a PNG all at once takes the garbage of a cut file for pixels.
        with rasterio.Env(GDAL_ERROR_ON_LIBJPEG_WARNING=True, GDAL_PNG_WHOLE_IMAGE_OPTIM="NO"):
            yield
    except (RasterioError, CPLE_BaseError, OSError) as error:
        raise SourceError(f"{path}: {what} ({error.__cause__ or error})") from error


def open_dataset(path: str | os.PathLike[str]) -> Any:
    """An open rasterio dataset, without the warning that it has no CRS. Raises SourceError."""
    with reading(path), _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


def info_of(dataset: Any) -> RasterInfo:
    """The header of an open dataset. Raises SourceError when its pixels are of a type that no store has."""
    types = set(dataset.dtypes)
    if len(types) != 1 or not types <= set(DTYPES):
        raise SourceError(f"{dataset.name}: its bands are {', '.join(sorted(types))}; convert it to one of "
                          f"{', '.join(DTYPES)} for all bands (gdal_translate -ot)")
    if ColorInterp.palette in dataset.colorinterp:
        raise SourceError(f"{dataset.name}: its pixels are indices of a palette, which have no mean; make colours of "
                          "them (gdal_translate -expand rgb)")
    transform = tuple(dataset.transform)[:6]
    flags = dataset.mask_flag_enums[0]
    # An alpha band is taken for a band like the others: four-band imagery is often mislabelled so.
    declared = MaskFlags.alpha not in flags and (MaskFlags.nodata in flags or MaskFlags.per_dataset in flags)
    return RasterInfo(
        shape=(dataset.height, dataset.width), bands=dataset.count, dtype=types.pop(),
        crs=dataset.crs.to_wkt() if dataset.crs else None,
        transform=None if transform == (1, 0, 0, 0, 1, 0) else transform,
        has_valid=declared or dataset.dtypes[0] == "float32")


def content_files(dataset: Any) -> tuple[Path, ...]:
    """The files whose content decides the pixels of an open dataset: itself first, then others (a mask in .msk, what a
    VRT refers to) by name; not overviews, georeference and what viewers note beside a raster.
    """
    first, *others = map(Path, dataset.files)
    return first, *sorted(path for path in others if not path.name.lower().endswith(SIDECARS))


def inspect_raster(path: Path) -> RasterInfo:
    """Read a raster's header. Raises SourceError."""
    with open_dataset(path) as dataset:
        return info_of(dataset)


def read_pixels(dataset: Any, rows: Range, cols: Range, info: RasterInfo, *, valid: bool) -> tuple[Array, Array | None]:
    """(image_BHW, valid_HW or None) of a window. Floats that are not finite are not valid, and read as 0.

    The second is there when it is asked for and the raster has it. A dataset that was warped has one band more than
    `info`, and is asked for both. Raises SourceError.
    """
    window = RasterWindow(cols[0], rows[0], cols[1] - cols[0], rows[1] - rows[0])
    valid_HW: Array | None = None
    with reading(dataset.name):
        image_BHW: Array = dataset.read(window=window)
        if valid and info.has_valid:
            warped = len(image_BHW) > info.bands  # the band beyond is alpha: which pixels the file reaches
            valid_HW = image_BHW[-1] != 0 if warped else _declared(dataset, image_BHW, window)
            image_BHW = image_BHW[:info.bands]
    if info.dtype == "float32":
        finite_BHW = np.isfinite(image_BHW)
        if not finite_BHW.all():
            image_BHW[~finite_BHW] = 0
            if valid_HW is not None:
                valid_HW &= finite_BHW.all(axis=0)
    return image_BHW, valid_HW


def _declared(dataset: Any, image_BHW: Array, window: RasterWindow) -> Array:
    """Which pixels are real by what the file declares: an internal mask, or values (real where any band is).

    The values are compared here, since GDAL's own comparison decodes the window's strips once more.
    """
    flags = dataset.mask_flag_enums[0]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        internal_HW: Array = dataset.read_masks(1, window=window) != 0
        return internal_HW
    if MaskFlags.nodata not in flags:
        return np.ones(image_BHW.shape[1:], np.bool_)
    valid_HW = np.zeros(image_BHW.shape[1:], np.bool_)
    for band_HW, nodata in zip(image_BHW, dataset.nodatavals):
        valid_HW |= True if nodata is None else band_HW != _as(nodata, band_HW.dtype)
    return valid_HW


def _as(nodata: float, dtype: np.dtype[Any]) -> Any:
    """A nodata value as pixels of a type have it; one that they cannot have equals no pixel."""
    if dtype.kind in "iu":
        return int(nodata) if float(nodata).is_integer() else None
    with np.errstate(over="ignore"):  # beyond float32 it is infinite, which is not real anyway
        return dtype.type(nodata)


class RasterFile:
    """A raster that was never ingested, read like a scene of a store: the same windows give the same bytes.

    Threads may share it; each call holds a lock, since a dataset of GDAL serves one at a time. It pickles as its path,
    and opens the file anew after a fork.
    """

    def __init__(self, path: str | os.PathLike[str], bands: int | None = None, dtype: Any = None) -> None:
        """`bands` and `dtype`, where given, are what the file must have. Raises SourceError when it has others."""
        self.path = Path(path)
        self._info = inspect_raster(self.path)
        self._wanted = (bands, None if dtype is None else np.dtype(dtype))
        self._dataset: Any = None
        self._pid = -1
        self._lock = threading.Lock()
        want = (bands or self.bands, self.dtype if dtype is None else np.dtype(dtype))
        if (self.bands, self.dtype) != want:
            raise SourceError(f"{self.path}: has {self.bands} bands of {self.dtype}, but {want[0]} of {want[1]} "
                              "are needed")

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self._info.shape

    @property
    def bands(self) -> int:
        """Number of bands."""
        return self._info.bands

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        return np.dtype(self._info.dtype)

    @property
    def crs(self) -> str | None:
        """Coordinate reference system as WKT."""
        return self._info.crs

    @property
    def transform(self) -> Affine | None:
        """a, b, c, d, e, f: x = a col + b row + c, y = d col + e row + f."""
        return self._info.transform

    @property
    def has_valid(self) -> bool:
        """Whether some pixels may not be real."""
        return self._info.has_valid

    def read(self, windows: Sequence[tuple[int, int, int]], size: int) -> Array:
        """Patches of windows (row, col, side in full-resolution pixels): (N, B, size, size) in the raster's dtype.

        The level is derived, and the edge is reflected, as `Store.read` does. Raises SourceError; ValueError when a
        side is below an eighth of `size`.
        """
        levels = levels_of(self.shape)
        squares = [locate(int(row), int(col), int(side), size, levels) for row, col, side in windows]
        images_NBHW = np.empty((len(squares), self.bands, size, size), self.dtype)
        for square, out_BSS in zip(squares, images_NBHW):
            shape = level_shape(self.shape, square.level)
            rows, cols = pixel_ranges(square, shape)
            block_BHW = self._level(square.level, rows, cols)
            if direct(square, shape, size):
                out_BSS[...] = block_BHW
            else:
                finish_pixels(block_BHW, square, shape, out_BSS)
        return images_NBHW

    def valid(self, rows: Range, cols: Range) -> NDArray[np.bool_]:
        """Which pixels of a stretch of full resolution are real: (rows, cols). Raises SourceError, ValueError."""
        rows, cols = check_range("rows", rows, self.shape[0]), check_range("cols", cols, self.shape[1])
        valid_HW = self._pixels(rows, cols, valid=True)[1]
        return np.ones((rows[1] - rows[0], cols[1] - cols[0]), np.bool_) if valid_HW is None else valid_HW

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        with self._lock:
            if self._dataset is not None and self._pid == os.getpid():
                self._dataset.close()
            self._dataset = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return RasterFile, (self.path, *self._wanted)

    def _pixels(self, rows: Range, cols: Range, *, valid: bool) -> tuple[Array, Array | None]:
        with self._lock:
            if self._dataset is None or self._pid != os.getpid():  # a handle shared with a fork reads wrong pixels
                self._dataset, self._pid = open_dataset(self.path), os.getpid()
            return read_pixels(self._dataset, rows, cols, self._info, valid=valid)

    def _level(self, level: int, rows: Range, cols: Range) -> Array:
        if level == 0:
            return self._pixels(rows, cols, valid=False)[0]
        out_BHW = np.empty((self.bands, rows[1] - rows[0], cols[1] - cols[0]), self.dtype)

        def reduce(full_rows: Range, full_cols: Range) -> Array:
            image_BHW, valid_HW = self._pixels(full_rows, full_cols, valid=True)
            return area_mean(image_BHW, 1 << level, valid_HW)

        fill_level(out_BHW, rows, cols, level, self.shape, reduce)
        return out_BHW


def rasters(folder: Path, *, deep: bool = False) -> list[Path]:
    """The rasters in a folder, known by their endings and sorted by path; hidden ones are left out.

    With `deep` also those of all folders below it.
    """
    paths = folder.rglob("*") if deep else folder.iterdir()
    return sorted(path for path in paths if path.suffix.lower() in ENDINGS and path.is_file()
                  and not any(part.startswith(".") for part in path.relative_to(folder).parts))
