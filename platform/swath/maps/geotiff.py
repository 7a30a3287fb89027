"""Maps: rows of classes to a Cloud-Optimised GeoTIFF with CRS, colours and names, shares beside it, and a picture.

A file appears under its name only when it is whole and was read back. Memory is that of a strip of tiles.
"""

import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # GDAL's own errors, which are no RasterioError and have no public name
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from patchstore import OutputError, SourceError
from patchstore.exports import CogHeader, Colour, Piece, class_header, write_cog
from patchstore.format import Affine, pixel_m2
from patchstore.sources import open_dataset
from swath.errors import DataError

STEPS = 254
"""Steps of a share of 0 to 1 in a byte: the largest number that leaves 255 for pixels that the source does not have."""
NO_SHARE = 255
DPI = 100
LINE_INCHES = 0.22
"""Height of a line of a picture's legend."""
LEAST_LINES = 8
"""Lines of a legend that stand below each other however low the map is."""
BAR_DOTS = 80
"""Least room for a scale bar, which is 0.4 of it at least."""


@dataclass(frozen=True, kw_only=True)
class MapInfo:
    """What a map of classes says of itself."""

    shape: tuple[int, int]
    """Rows and columns."""
    crs: str | None
    """Coordinate reference system as WKT."""
    transform: Affine | None
    """a, b, c, d, e, f: x = a col + b row + c, y = d col + e row + f, of pixel corners."""
    names: tuple[str, ...]
    """Of the classes, by index."""
    colours: tuple[Colour, ...]
    """Of the classes, by index."""
    nodata: int
    """Value of pixels that the source did not have."""


def write_map(path: Path, rows: Iterable[tuple[int, NDArray[np.uint8]]], *, shape: tuple[int, int], crs: str | None,
              transform: tuple[float, ...] | None, names: Sequence[str], colours: Sequence[Colour], nodata: int = 255,
              overwrite: bool = True, tags: Mapping[str, str] | None = None, scratch: Path | None = None) -> None:
    """Write a map of `shape` (rows, columns) from pieces (row of the first, classes_hW uint8), top to bottom, of any
    heights. The first piece is the top of the map, whichever row of a scene it says that it is.

    crs is WKT and transform the six numbers a to f of an affine transform, both of the map's top left pixel. The class
    names stand, in the order of their index, as a JSON list in the tag CLASSES (GDAL's own category names would need a
    second file beside the map); nodata is transparent. `scratch`: as `patchstore.exports.write_cog` has it.

    Raises DataError when the map exists and may not be overwritten, when its folder cannot be written, when the disk
    has no room (asked before the first row) or is full, and when the rows leave gaps, do not fill the shape, or hold a
    value that no class has. Nothing is left then.
    """
    path = Path(path)
    if len(names) != len(colours) or not 0 < len(names) <= nodata <= 255:
        raise DataError(f"{path}: a map takes 1 to 255 classes, a colour for each, and a nodata value above them; got "
                        f"{len(names)} names, {len(colours)} colours, nodata {nodata}")
    header = class_header(shape=shape, crs=crs, transform=transform, names=names, colours=colours, nodata=nodata,
                              tags=tags)
    _write(path, _pieces(path, rows, len(names), nodata), header, overwrite=overwrite, scratch=scratch)


def _pieces(path: Path, rows: Iterable[tuple[int, NDArray[np.uint8]]], classes: int, nodata: int) -> Iterator[Piece]:
    """The rows as pieces of a raster. Raises DataError at a value that no class has."""
    for row, classes_hW in rows:
        if (strange := (classes_hW >= classes) & (classes_hW != nodata)).any():
            raise DataError(f"{path}: value {classes_hW[strange][0]} in rows {row} to {row + len(classes_hW) - 1}, but "
                            f"there are {classes} classes and nodata {nodata}")
        yield Piece(row, classes_hW)


def write_probabilities(path: Path, pieces: Iterable[tuple[int, NDArray[np.uint8]]], *, shape: tuple[int, int],
                 crs: str | None, transform: tuple[float, ...] | None, names: Sequence[str],
                 tags: Mapping[str, str] | None = None, overwrite: bool = True, scratch: Path | None = None) -> None:
    """Write shares of 0 to 1, a band for each name (the probability of each class, or the largest of them alone), from
    pieces (row of the first, shares_ChW: 254 times the share, rounded; 255 where the source has no pixel), as
    `write_map` does. Each band says the scale 1/254, by which GIS programs show, and rasterio's `scales` give, 0 to 1.
    Overviews are means of the pixels that are there.

    Raises DataError as `write_map` does.
    """
    header = CogHeader(shape=shape, bands=len(names), dtype="uint8", crs=crs, transform=transform, nodata=NO_SHARE,
                       descriptions=names, scale=1 / STEPS, tags=tags or {})
    _write(Path(path), (Piece(row, shares_ChW) for row, shares_ChW in pieces), header, overwrite=overwrite,
           scratch=scratch)


def _write(path: Path, pieces: Iterable[Piece], header: CogHeader, *, overwrite: bool, scratch: Path | None) -> None:
    try:
        write_cog(path, pieces, header, overwrite=overwrite, scratch=scratch)
    except OutputError as error:
        raise DataError(str(error)) from error


def inspect_map(path: Path) -> MapInfo:
    """What a finished map says of itself. Raises DataError for a file that is not one."""
    with open_map(path) as (_, info):
        return info


@contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty file beside `path` to write into. It takes the place of `path` at the end, and goes at an error.

    Raises DataError when `path` exists and may not be overwritten, and for any OSError, with the path.
    """
    if path.is_dir() or (path.exists() and not overwrite):
        raise DataError(f"{path}: exists already; give another name{'' if path.is_dir() else ', or overwrite it'}")
    part = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        yield part
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error}); it needs a folder that may be written, and room on the "
                        "disk") from error
    finally:
        if part.exists():
            part.unlink()


@contextmanager
def open_map(path: Path) -> Iterator[tuple[Any, MapInfo]]:
    """A finished map, or a VRT over several, as an open rasterio dataset, and what it says of itself.

    Raises DataError for a file that is no such map, and when reading fails within.
    """
    try:
        with open_dataset(path) as raster:
            yield raster, _info(path, raster)
    except (SourceError, OSError, RasterioError, CPLE_BaseError) as error:
        raise DataError(f"{path}: cannot be read as a map ({error})") from error


def _info(path: Path, raster: Any) -> MapInfo:
    """Raises DataError where a file lacks what `write_map` gives a map."""
    try:
        names, palette = json.loads(raster.tags().get("CLASSES", "null")), raster.colormap(1)
    except ValueError:  # the names are no JSON, or there is no palette
        names, palette = None, {}
    if (raster.count, raster.dtypes[0]) != (1, "uint8") or not isinstance(names, list) or raster.nodata is None:
        raise DataError(f"{path}: not a map of classes with their colours, a nodata value, and their names in the tag "
                        "CLASSES; give one that jobs/predict.py wrote")
    place = tuple(raster.transform)[:6]
    return MapInfo(shape=raster.shape, crs=raster.crs.to_wkt() if raster.crs else None,
                   transform=None if place == (1, 0, 0, 0, 1, 0) else place, names=tuple(map(str, names)),
                   colours=tuple(palette[k][:3] for k in range(len(names))), nodata=int(raster.nodata))


def quicklook(map_path: Path, png_path: Path, longest: int = 1024) -> None:
    """Draw a map in its colours, its longest side reduced to `longest` pixels at most (most frequent class), with a
    legend and a scale bar: metres or kilometres where those of the CRS are true, pixels of the map where not.

    Raises DataError for a file that is not such a map, or when the picture cannot be written.
    """
    with open_map(map_path) as (raster, info):
        shrink = min(1.0, longest / max(info.shape))
        out = tuple(max(1, round(length * shrink)) for length in info.shape)
        classes_HW = raster.read(1, out_shape=out, resampling=Resampling.mode)
    png = _picture(classes_HW, info, _metres(info))
    with replacing(Path(png_path), overwrite=True) as part:
        part.write_bytes(png)


def _metres(info: MapInfo) -> float | None:
    """Metres on the ground from one column to the next, where the CRS says so."""
    area_m2 = pixel_m2(info.crs, info.transform)
    if area_m2 is None or info.transform is None:
        return None
    a, b, _, d, e, _ = info.transform
    return math.hypot(a, d) * math.sqrt(area_m2 / abs(a * e - b * d))


def _picture(classes_HW: NDArray[np.uint8], info: MapInfo, pixel_m: float | None) -> bytes:
    """A PNG of reduced classes. pixel_m: metres from one column of the map, not of the picture, to the next."""
    height, width = classes_HW.shape
    zoom = max(1, 256 // max(height, width))  # a tiny map is drawn larger
    colours_VC = np.zeros((256, 4), np.uint8)  # clear, which the paper shows white, beyond the classes
    colours_VC[:len(info.names)] = [(*colour, 255) for colour in info.colours]
    figure = Figure(figsize=(width * zoom / DPI, height * zoom / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(colours_VC[classes_HW], interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color="0.5", linewidth=0.5)
    _legend(axes, classes_HW, info, int(height * zoom / DPI / LINE_INCHES))
    _scale_bar(figure, pictured=width * zoom / info.shape[1], pixel_m=pixel_m)
    png = BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(png, format="png", bbox_inches="tight", pad_inches=0.1)
    return png.getvalue()


def _legend(axes: Axes, classes_HW: NDArray[np.uint8], info: MapInfo, lines: int) -> None:
    """List the classes, and white for no data where there is some, right of the map, in columns of `lines`."""
    entries = [(name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in zip(info.names, info.colours)]
    if (classes_HW >= len(info.names)).any():
        entries.append(("no data", "white"))
    handles = [Patch(facecolor=colour, edgecolor="0.5", linewidth=0.5, label=name) for name, colour in entries]
    legend = axes.legend(handles=handles, ncols=math.ceil(len(entries) / max(lines, LEAST_LINES)), loc="upper left",
                         bbox_to_anchor=(1.0, 1.0), borderaxespad=0.8, borderpad=0, frameon=False)
    for text in legend.get_texts():  # a class may be named with signs that begin formulas
        text.set_parse_math(False)


def _scale_bar(figure: Figure, *, pictured: float, pixel_m: float | None) -> None:
    """Draw a bar of a round length below a map, of which a pixel takes `pictured` dots of the picture."""
    width, height = figure.get_size_inches() * DPI
    unit_dots = pictured / (pixel_m or 1)
    length = round_length(max(0.3 * width, BAR_DOTS) / unit_dots)
    if pixel_m is None:
        length = max(length, 1.0)
    half = length * unit_dots / 2
    for left, colour in ((0.0, "black"), (half, "white")):
        figure.add_artist(Rectangle((left / width, -16 / height), half / width, 6 / height, facecolor=colour,
                                    edgecolor="black", linewidth=0.8, transform=figure.transFigure))
    text = f"{length:g} px" if pixel_m is None else f"{length:g} m" if length < 1000 else f"{length / 1000:g} km"
    figure.text((2 * half + 8) / width, -13 / height, text, va="center_baseline", parse_math=False)


def round_length(most: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most)
