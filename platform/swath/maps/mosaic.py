"""Many maps as one: a VRT, which GIS programs open as a single raster and which holds no pixels of its own."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from rasterio.crs import CRS

from patchstore.exports import TILE
from swath.errors import DataError
from swath.maps.geotiff import MapInfo, inspect_map, replacing

MOST_PIXELS = 2**31 - 1
"""Of a side: GDAL counts in 32 bits."""


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The pixels of a mosaic, along the axes of the CRS: x = left + col width, y = top - row height."""

    left: float
    top: float
    width: float
    height: float
    shape: tuple[int, int]
    """Rows and columns."""


class NoMosaicError(DataError):
    """Maps that cannot be laid together."""


def write_vrt(paths: Sequence[Path], out: Path, *, overwrite: bool = False) -> tuple[str, ...]:
    """Write a VRT over maps of one CRS, with their classes' names and colours, by relative paths: the folder can be
    moved. Its pixels are the finest of the maps'; where maps overlap the later has it, except where it has no data.

    Returns a note for each map that is left out: without CRS or transform, turned against the axes of its CRS, or with
    another CRS, other classes or colours than most have (than the first, where as many have others).

    Raises NoMosaicError when no map is left or they lie too far apart for one raster; DataError for a file that is no
    map, when the output exists and may not be overwritten, and when it cannot be written. Nothing is left then, and an
    earlier file stays.
    """
    out = Path(out)
    if out.resolve() in {Path(path).resolve() for path in paths}:
        raise DataError(f"{out}: would be laid into itself; give another name")
    alike, notes = _alike([(Path(path), inspect_map(path)) for path in paths])
    if not alike:
        raise NoMosaicError(f"{out}: no map to lay into it; {'; '.join(notes) or 'none was given'}")
    frame = _frame([info for _, info in alike])
    if max(frame.shape) > MOST_PIXELS:
        raise NoMosaicError(f"{out}: {frame.shape[1]:,} x {frame.shape[0]:,} pixels, and a raster has {MOST_PIXELS:,} "
                            "a side at most; lay maps together that are nearer to each other")
    with replacing(out, overwrite=overwrite) as part:
        ElementTree(_vrt(alike, frame, out.parent)).write(part, encoding="utf-8", xml_declaration=False)
    return tuple(f"{note}; it is not in {out.name}" for note in notes)


def _alike(maps: list[tuple[Path, MapInfo]]) -> tuple[list[tuple[Path, MapInfo]], list[str]]:
    """The most maps that can be laid together, in their order, and why others cannot."""
    notes: list[str] = []
    groups: list[list[tuple[Path, MapInfo]]] = []
    for path, info in maps:
        if info.crs is None or info.transform is None:
            notes.append(f"{path}: has no {'CRS' if info.crs is None else 'transform'}")
        elif info.transform[1:4:2] != (0, 0) or info.transform[0] < 0 or info.transform[4] > 0:
            notes.append(f"{path}: is turned against the axes of its CRS; warp it north up (gdalwarp)")
        else:
            group = next((group for group in groups if not _difference(info, group[0][1])), None)
            if group is None:
                groups.append(group := [])
            group.append((path, info))
    most = max(groups, key=len, default=[])
    notes += [f"{path}: has {_difference(info, most[0][1])} than {most[0][0].name}"
              for group in groups if group is not most for path, info in group]
    return most, notes


def _difference(one: MapInfo, other: MapInfo) -> str:
    """What keeps two maps from being laid together; nothing where nothing does."""
    if CRS.from_wkt(one.crs) != CRS.from_wkt(other.crs):
        return "another CRS"
    same = (one.names, one.colours, one.nodata) == (other.names, other.colours, other.nodata)
    return "" if same else "other classes, colours or nodata"


def _bounds(info: MapInfo) -> tuple[float, float, float, float]:
    """Left, top, right and bottom."""
    assert info.transform is not None
    a, _, left, _, e, top = info.transform
    return left, top, left + a * info.shape[1], top + e * info.shape[0]


def _frame(infos: Sequence[MapInfo]) -> _Frame:
    """All that maps cover, in the finest pixels, from the top left of all."""
    lefts, tops, rights, bottoms = zip(*map(_bounds, infos))
    width = min(info.transform[0] for info in infos if info.transform)
    height = min(-info.transform[4] for info in infos if info.transform)
    left, top = min(lefts), max(tops)
    # A last pixel of less than a millionth is rounding.
    shape = (math.ceil((top - min(bottoms)) / height - 1e-6), math.ceil((max(rights) - left) / width - 1e-6))
    return _Frame(left=left, top=top, width=width, height=height, shape=shape)


def _vrt(maps: Sequence[tuple[Path, MapInfo]], frame: _Frame, folder: Path) -> Element:
    """The VRT's XML (gdal.org/en/stable/drivers/raster/vrt.html)."""
    first = maps[0][1]
    root = Element("VRTDataset", rasterXSize=str(frame.shape[1]), rasterYSize=str(frame.shape[0]))
    # x before y, whatever order the CRS's own definition has them in
    SubElement(root, "SRS", dataAxisToSRSAxisMapping="1,2").text = first.crs
    SubElement(root, "GeoTransform").text = ", ".join(
        map(repr, (frame.left, frame.width, 0.0, frame.top, 0.0, -frame.height)))
    SubElement(SubElement(root, "Metadata"), "MDI", key="CLASSES").text = json.dumps(first.names)
    band = SubElement(root, "VRTRasterBand", dataType="Byte", band="1")
    SubElement(band, "Description").text = "class"
    SubElement(band, "ColorInterp").text = "Palette"
    SubElement(band, "NoDataValue").text = str(first.nodata)
    names, colours = SubElement(band, "CategoryNames"), SubElement(band, "ColorTable")
    for name in first.names:
        SubElement(names, "Category").text = name
    for value in range(256):
        known = value < len(first.colours)
        rgba = (*first.colours[value], 255) if known else (0, 0, 0, 0)
        SubElement(colours, "Entry", dict(zip(("c1", "c2", "c3", "c4"), map(str, rgba))))
    for path, info in maps:
        _source(band, Path(os.path.relpath(path, folder)), info, frame)
    indent(root)
    return root


def _source(band: Element, path: Path, info: MapInfo, frame: _Frame) -> None:
    """Add a map to a VRT's band: what it is, so that GDAL need not open all of many, and where it lies."""
    rows, cols = map(str, info.shape)
    left, top, right, bottom = _bounds(info)
    source = SubElement(band, "ComplexSource")  # a simple one would lay its nodata over others
    SubElement(source, "SourceFilename", relativeToVRT="1").text = path.as_posix()
    SubElement(source, "SourceBand").text = "1"
    SubElement(source, "SourceProperties", RasterXSize=cols, RasterYSize=rows, DataType="Byte", BlockXSize=str(TILE),
               BlockYSize=str(TILE))
    SubElement(source, "SrcRect", xOff="0", yOff="0", xSize=cols, ySize=rows)
    SubElement(source, "DstRect", xOff=repr((left - frame.left) / frame.width),
               yOff=repr((frame.top - top) / frame.height), xSize=repr((right - left) / frame.width),
               ySize=repr((top - bottom) / frame.height))
    SubElement(source, "NODATA").text = str(info.nodata)
