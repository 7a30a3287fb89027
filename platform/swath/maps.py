"""Maps: rows of classes to a Cloud-Optimised GeoTIFF with CRS, colours and names, and a picture of one.

A map appears under its name only when it is whole and was read back. Memory is that of a strip of tiles.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # GDAL's own errors, which are no RasterioError and have no public name
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from patchstore.cog import Colour, Piece, class_header, write_cog
from patchstore.errors import OutputError, SourceError
from patchstore.raster import open_dataset
from swath.errors import DataError

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
    if len(names) != len(colours) or not 0 < len(names) <= nodata <= 255:
        raise DataError(f"{path}: a map takes 1 to 255 classes, a colour for each, and a nodata value above them; got "
                        f"{len(names)} names, {len(colours)} colours, nodata {nodata}")
    header = class_header(shape=shape, crs=crs, transform=transform, names=names, colours=colours, nodata=nodata,
                          tags=tags)
    try:
        write_cog(path, _pieces(path, rows, len(names), nodata), header, overwrite=overwrite)
    except OutputError as error:
        raise DataError(str(error)) from error


def _pieces(path: Path, rows: Iterable[tuple[int, NDArray[np.uint8]]], classes: int, nodata: int) -> Iterator[Piece]:
    """The rows as pieces of a raster. Raises DataError at a value that no class has."""
    for row, classes_hW in rows:
        if (strange := (classes_hW >= classes) & (classes_hW != nodata)).any():
            raise DataError(f"{path}: value {classes_hW[strange][0]} in rows {row} to {row + len(classes_hW) - 1}, but "
                            f"there are {classes} classes and nodata {nodata}")
        yield Piece(row, classes_hW)


def quicklook(map_path: Path, png_path: Path, longest: int = 1024) -> None:
    """Draw a map in its colours, with a legend, its longest side reduced to `longest` pixels at most (most frequent
    class). Raises DataError for a file that is not such a map, or when the picture cannot be written."""
    try:
        with open_dataset(map_path) as raster:
            names = json.loads(raster.tags().get("CLASSES", "null"))
            if raster.count != 1 or raster.dtypes[0] != "uint8" or not isinstance(names, list):
                raise DataError(f"{map_path}: not a map of classes with their names in the tag CLASSES")
            shrink = min(1.0, longest / max(raster.shape))
            out = tuple(max(1, round(length * shrink)) for length in raster.shape)
            classes_HW = raster.read(1, out_shape=out, resampling=Resampling.mode)
            colours_K4 = np.array([raster.colormap(1)[value] for value in range(256)], np.uint8)
    except (SourceError, OSError, RasterioError, CPLE_BaseError, ValueError) as error:
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
    try:
        Path(png_path).write_bytes(png.getvalue())
    except OSError as error:
        raise DataError(f"{png_path}: cannot be written ({error}); it needs a folder that may be written") from error
