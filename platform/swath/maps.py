"""Maps: rows of classes to a Cloud-Optimised GeoTIFF with CRS, colours and names, and a picture of one.

A map appears under its name only when it is whole and was read back. Memory is that of a strip of tiles.
"""

import json
import os
import tempfile
import warnings
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # GDAL's own errors, which are no RasterioError and have no public name
from rasterio.enums import Resampling
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from swath.errors import DataError

Colour = tuple[int, int, int]
TILE = 512
"""Side of a tile in pixels. Strips of whole tiles also go past GDAL's block cache."""
DPI = 100


def write_map(path: Path, rows: Iterable[tuple[int, NDArray[np.uint8]]], *, shape: tuple[int, int], crs: str | None,
              transform: tuple[float, ...] | None, names: Sequence[str], colours: Sequence[Colour], nodata: int = 255,
              overwrite: bool = True, tags: Mapping[str, str] | None = None) -> None:
    """Write a map of `shape` (rows, columns) from pieces (row of the first, classes_hW uint8), top to bottom, of any
    heights. The first piece is the top of the map, whichever row of a scene it says that it is.

    crs is WKT and transform the six numbers a to f of an affine transform, both of the map's top left pixel. The class
    names stand, in the order of their index, as a JSON list in the tag CLASSES; nodata is transparent.

    Raises DataError when the map exists and may not be overwritten, when its folder cannot be written or the disk is
    full, and when the rows leave gaps, do not fill the shape, or hold a value that no class has. Nothing is left then.
    """
    path = Path(path)
    if path.is_dir() or (path.exists() and not overwrite):
        raise DataError(f"{path}: exists already; give another name{'' if path.is_dir() else ', or overwrite it'}")
    if len(names) != len(colours) or not 0 < len(names) <= nodata <= 255:
        raise DataError(f"{path}: a map takes 1 to 255 classes, a colour for each, and a nodata value above them; got "
                        f"{len(names)} names, {len(colours)} colours, nodata {nodata}")
    try:
        projection = None if crs is None else rasterio.CRS.from_wkt(crs)
    except CRSError as error:
        raise DataError(f"{path}: its CRS is not WKT that PROJ can read: {crs!r} ({error})") from error
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent)
    # Beside the map, so that the last step is a rename in one file system; GDAL's own temporary files land there too.
    with folder:
        palette = {k: (*colour, 255) for k, colour in enumerate(colours)} | {nodata: (0, 0, 0, 0)}
        plain, whole = Path(folder.name) / "plain.tif", Path(folder.name) / "whole.tif"
        with _writing(path), _without_warning():
            raster = rasterio.open(
                plain, "w", driver="GTiff", height=shape[0], width=shape[1], count=1, dtype="uint8", crs=projection,
                transform=None if transform is None else rasterio.Affine(*transform), nodata=nodata, tiled=True,
                blockxsize=TILE, blockysize=TILE, compress="deflate", zlevel=1, bigtiff="if_safer", sparse_ok=True)
            raster.write_colormap(1, palette)
            raster.update_tags(**{**(tags or {}), "CLASSES": json.dumps(list(names))})
            raster.set_band_description(1, "class")
        try:
            checksum = _fill(path, raster, _strips(rows, shape, TILE), len(names))
        finally:
            with _writing(path):
                raster.close()
        with _writing(path), _without_warning():
            rasterio.shutil.copy(plain, whole, driver="COG", compress="deflate", blocksize=TILE,
                                 overview_resampling="mode", bigtiff="if_safer")
            if _checksum(whole) != checksum:  # GDAL says nothing when the disk is full at the very end (seen in 3.10)
                raise OSError("what was written reads back otherwise")
            os.replace(whole, path)


def _fill(path: Path, raster: Any, strips: Iterable[tuple[int, NDArray[np.uint8]]], classes: int) -> int:
    """Write strips into an open raster; the CRC-32 of their pixels, row by row."""
    checksum = 0
    for row, strip_hW in strips:
        past = row + len(strip_hW)
        if (strange := (strip_hW >= classes) & (strip_hW != int(raster.nodata))).any():
            raise DataError(f"{path}: value {strip_hW[strange][0]} in rows {row} to {past - 1}, but there are "
                            f"{classes} classes and nodata {int(raster.nodata)}")
        with _writing(path):
            raster.write(strip_hW, 1, window=((row, past), (0, raster.width)))
        checksum = zlib.crc32(strip_hW.data, checksum)
    return checksum


def _strips(rows: Iterable[tuple[int, NDArray[np.uint8]]], shape: tuple[int, int], height: int
            ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Gather pieces into strips of `height` (the last may be lower). A strip is valid until the next is asked for."""
    strip_hW = np.empty((height, shape[1]), np.uint8)
    done = filled = 0
    expected: int | None = None
    for row, classes_hW in rows:
        if expected not in (None, row):
            raise DataError(f"rows of a map must follow each other: expected row {expected}, got {row}")
        if classes_hW.dtype != np.uint8 or classes_hW.ndim != 2 or classes_hW.shape[1] != shape[1]:
            raise DataError(f"rows of a map must be uint8 and {shape[1]} wide, got {classes_hW.dtype} "
                            f"{classes_hW.shape}")
        expected = row + len(classes_hW)
        if done + filled + len(classes_hW) > shape[0]:
            raise DataError(f"more rows than the {shape[0]} of the map")
        while len(classes_hW):
            taken = min(height - filled, len(classes_hW))
            strip_hW[filled:filled + taken] = classes_hW[:taken]
            filled, classes_hW = filled + taken, classes_hW[taken:]
            if filled == height:
                yield done, strip_hW
                done, filled = done + height, 0
    if done + filled < shape[0]:
        raise DataError(f"the rows of the map end after {done + filled} of {shape[0]}")
    if filled:
        yield done, strip_hW[:filled]


def _checksum(path: Path) -> int:
    """CRC-32 of all pixels of the first band, row by row."""
    checksum = 0
    with rasterio.open(path) as raster:
        for row in range(0, raster.height, TILE):
            past = min(row + TILE, raster.height)
            checksum = zlib.crc32(raster.read(1, window=((row, past), (0, raster.width))), checksum)
    return checksum


def quicklook(map_path: Path, png_path: Path, longest: int = 1024) -> None:
    """Draw a map in its colours, with a legend, its longest side reduced to `longest` pixels at most (most frequent
    class). Raises DataError for a file that is not such a map, or when the picture cannot be written."""
    try:
        with _without_warning(), rasterio.open(map_path) as raster:
            names = json.loads(raster.tags().get("CLASSES", "null"))
            if raster.count != 1 or raster.dtypes[0] != "uint8" or not isinstance(names, list):
                raise DataError(f"{map_path}: not a map of classes with their names in the tag CLASSES")
            shrink = min(1.0, longest / max(raster.shape))
            out = tuple(max(1, round(length * shrink)) for length in raster.shape)
            classes_HW = raster.read(1, out_shape=out, resampling=Resampling.mode)
            colours_K4 = np.array([raster.colormap(1)[value] for value in range(256)], np.uint8)
    except (OSError, RasterioError, CPLE_BaseError, ValueError) as error:
        raise DataError(f"{map_path}: cannot be read as a map ({error})") from error

    zoom = max(1, 256 // max(out))  # a tiny map is drawn larger
    figure = Figure(figsize=(out[1] * zoom / DPI, out[0] * zoom / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(colours_K4[classes_HW], interpolation="nearest")
    axes.set_axis_off()
    axes.legend(handles=[Patch(facecolor=colours_K4[k] / 255, edgecolor="0.5", label=name)
                         for k, name in enumerate(names)],
                loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    png = BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(png, format="png", bbox_inches="tight", pad_inches=0.05)
    with _writing(Path(png_path)):
        Path(png_path).write_bytes(png.getvalue())


@contextmanager
def _writing(path: Path) -> Generator[None, None, None]:
    """Turn what the system and GDAL say about writing into one line that names the file."""
    try:
        yield
    except (OSError, RasterioError, CPLE_BaseError) as error:
        raise DataError(f"{path}: cannot be written ({error}); it needs a folder that may be written, and room on the "
                        "disk for twice its size") from error


@contextmanager
def _without_warning() -> Generator[None, None, None]:
    """Keep rasterio from warning that a raster has no transform: an image may well have none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
