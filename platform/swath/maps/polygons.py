"""Polygons of a finished map's classes, as GeoParquet.

Memory is that of the polygons, not of the pixels: about 100 bytes a vertex, 170 to simplify them (0.9 and 1.5 GB for
the 9.1 million vertices of a map of 144 million pixels: 18 and 58 s).
Polygons are worked on in pixels, where their vertices are whole numbers, and brought to the ground last.
Legend: P polygons, V vertices.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import rasterio
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import CRSError
from rasterio.features import shapes
from shapely import GeometryType

from patchstore.format import Affine, pixel_m2
from swath.errors import DataError
from swath.maps.geotiff import MapInfo, open_map, replacing

Geometries = NDArray[Any]


def write_polygons(map_path: Path, out_path: Path, *, simplify_px: float = 0.0, overwrite: bool = False) -> int:
    """Write the polygons of each class of a map as GeoParquet, and say how many they are: 4-connected, with vertices at
    pixel corners, none where the map has no data.

    Columns: `class` (index), `name`, `pixels`, `area_m2`, `geometry` in the map's CRS (pixels of the map, x the column
    and y the row, where it has no transform). Pixels and area are the map's own, whatever is simplified. The area is on
    the CRS's plane where its metres are true, else on its ellipsoid, and null without a CRS.

    simplify_px > 0 smooths borders between classes (Visvalingam and Whyatt: a vertex goes that spans a triangle of less
    than the square of so many pixels with its neighbours). Neighbours keep one border, without gaps and overlaps, and
    the outline of what the map covers stays as it is.

    Raises DataError for a file that is no map, when the output exists and may not be overwritten, and when it cannot be
    written. Nothing is left then, and an earlier file stays.
    """
    if simplify_px < 0:
        raise DataError(f"simplify_px must not be negative, got {simplify_px}")
    map_path, out_path = Path(map_path), Path(out_path)
    if out_path.resolve() == map_path.resolve():
        raise DataError(f"{out_path}: the polygons would take the place of their map; give another name")
    with replacing(out_path, overwrite=overwrite) as part:
        info, classes_P, polygons_P = _trace(map_path)
        pixels_P = np.rint(shapely.area(polygons_P)).astype(np.int64)
        area_m2_P = _areas(polygons_P, info, map_path)
        if simplify_px > 0 and len(polygons_P):
            polygons_P = shapely.coverage_simplify(_noded(polygons_P, info.shape), simplify_px, simplify_boundary=False)
        table = geopandas.GeoDataFrame(
            {"class": classes_P, "name": np.array(info.names, object)[classes_P], "pixels": pixels_P,
             "area_m2": area_m2_P},
            geometry=_placed(polygons_P, info.transform), crs=None if info.transform is None else info.crs)
        table.to_parquet(part)
    return len(table)


def _trace(path: Path) -> tuple[MapInfo, NDArray[np.uint8], Geometries]:
    """A map's header, and the class and polygon, in pixels, of each piece of a class that hangs together by sides.

    Raises DataError for a file that is no map, or has a value that is no class.
    """
    classes: list[int] = []
    holders: list[int] = []
    rings: list[NDArray[np.float64]] = []
    with open_map(path) as (raster, info):
        for outline, value in shapes(rasterio.band(raster, 1), connectivity=4):
            if value == info.nodata:
                continue
            if value >= len(info.names):
                raise DataError(f"{path}: value {value:.0f}, but there are {len(info.names)} classes and nodata "
                                f"{info.nodata}")
            classes.append(int(value))
            holders.append(len(outline["coordinates"]))
            rings += map(np.array, outline["coordinates"])
    if not classes:
        return info, np.empty(0, np.uint8), np.empty(0, object)
    # Tracing a band, rather than an array, GDAL takes its transform.
    back = (1, 0, 0, 0, 1, 0) if info.transform is None else tuple(~rasterio.Affine(*info.transform))[:6]
    xy_V2 = np.rint(_affine(np.concatenate(rings), back))
    offsets = _offsets([len(ring) for ring in rings]), _offsets(holders)
    polygons_P = np.asarray(shapely.from_ragged_array(GeometryType.POLYGON, xy_V2, offsets))
    return info, np.array(classes, np.uint8), polygons_P


def _offsets(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Where parts of these lengths begin that lie one after the other, and the end of the last."""
    return np.concatenate(([0], np.cumsum(lengths)))


def _areas(polygons_P: Geometries, info: MapInfo, path: Path) -> NDArray[np.float64]:
    """Square metres of polygons in pixels; NaN where that cannot be known. Raises DataError for a CRS that PROJ cannot
    read.

    On the ellipsoid they are those in the equal-area cylindrical projection, in which the sides of pixels in degrees or
    in Mercator's projection stay straight.
    """
    plane_m2 = pixel_m2(info.crs, info.transform)
    if plane_m2 is not None:
        return np.asarray(shapely.area(polygons_P) * plane_m2)
    try:
        crs = None if info.crs is None else pyproj.CRS.from_wkt(info.crs)
    except CRSError as error:
        raise DataError(f"{path}: its CRS cannot be read by PROJ ({error}); give the map another, with gdal_edit"
                        ) from error
    geodetic = None if crs is None else crs.geodetic_crs
    if geodetic is None or geodetic.ellipsoid is None or info.transform is None or not len(polygons_P):
        return np.full(len(polygons_P), np.nan)
    unit, ellipsoid = geodetic.axis_info[0].unit_conversion_factor, geodetic.ellipsoid
    to_degrees = pyproj.Transformer.from_crs(crs, geodetic, always_xy=True)
    to_plane = pyproj.Proj(proj="cea", a=ellipsoid.semi_major_metre, b=ellipsoid.semi_minor_metre)

    def flatten(xy_V2: NDArray[np.float64]) -> NDArray[np.float64]:
        lon_V, lat_V = np.array(to_degrees.transform(*xy_V2.T)) * unit
        # From the first vertex on, so that a map across the date line is not torn.
        return np.column_stack(to_plane(lon_V - lon_V[0], lat_V, radians=True))

    return np.asarray(shapely.area(shapely.transform(_placed(polygons_P, info.transform), flatten)))


def _placed(polygons_P: Geometries, transform: Affine | None) -> Geometries:
    """Polygons in pixels, brought to the ground."""
    if transform is None:
        return polygons_P
    return np.asarray(shapely.transform(polygons_P, lambda xy_V2: _affine(xy_V2, transform)))


def _affine(xy_V2: NDArray[np.float64], transform: Affine) -> NDArray[np.float64]:
    """Vertices (x, y), transformed. What is the same vertex stays the same to the last bit, which a product of matrices
    does not promise."""
    a, b, c, d, e, f = transform
    x_V, y_V = xy_V2.T
    return np.column_stack((a * x_V + b * y_V + c, d * x_V + e * y_V + f))


def _noded(polygons_P: Geometries, shape: tuple[int, int]) -> Geometries:
    """The same polygons in pixels, with a vertex wherever one of another lies on their sides: what a coverage is made
    of, and what tracing leaves out on straight sides."""
    kind, coordinates_V2, (rings, parts) = shapely.to_ragged_array(polygons_P)
    xy_V2, stride = coordinates_V2.astype(np.int64), max(shape) + 1
    added_V = np.zeros(len(xy_V2), np.int64)  # vertices that follow each
    sides = []
    for axis in (0, 1):  # sides along x, then along y
        line_V, along_V = xy_V2[:, 1 - axis] * stride, xy_V2[:, axis]
        vertices = np.sort(line_V + along_V)
        vertices = vertices[np.diff(vertices, prepend=-1) > 0]  # np.unique is five times slower
        straight_V = line_V == np.roll(line_V, -1)
        straight_V[rings[1:] - 1] = False  # a ring's last vertex is its first
        side_S = np.flatnonzero(straight_V)
        from_S, to_S = along_V[side_S], along_V[side_S + 1]
        first_S = np.searchsorted(vertices, line_V[side_S] + np.minimum(from_S, to_S), side="right")
        end_S = np.searchsorted(vertices, line_V[side_S] + np.maximum(from_S, to_S), side="left")
        added_V[side_S] = end_S - first_S
        sides.append((axis, vertices, side_S, np.where(from_S < to_S, first_S, end_S - 1), np.sign(to_S - from_S)))

    place_V = np.arange(len(xy_V2)) + np.cumsum(added_V) - added_V
    noded_N2 = np.empty((len(xy_V2) + added_V.sum(), 2))
    noded_N2[place_V] = xy_V2
    for axis, vertices, side_S, begin_S, step_S in sides:
        count_S = added_V[side_S]
        nth = np.arange(count_S.sum()) - np.repeat(np.cumsum(count_S) - count_S, count_S)
        line, along = np.divmod(vertices[np.repeat(begin_S, count_S) + nth * np.repeat(step_S, count_S)], stride)
        where = np.repeat(place_V[side_S] + 1, count_S) + nth
        noded_N2[where, axis], noded_N2[where, 1 - axis] = along, line
    return np.asarray(shapely.from_ragged_array(kind, noded_N2, (np.append(place_V, len(noded_N2))[rings], parts)))
