"""Polygons of a vector file burnt into a scene's pixels: labels, or an area of interest.

A pixel belongs to the polygon that holds its centre, to the later one in the file where several do. Vertices are first
brought into pixels of the whole scene, as multiples of 2^-20, so that what is burnt does not depend on how the scene is
cut into rows: taking off a band's first row is then exact.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.warp import transform, transform_bounds

from patchstore.errors import SourceError
from patchstore.format.windows import Range
from patchstore.sources.grid import Grid, name_of, parse_crs
from patchstore.sources.raster import reading

Array = NDArray[Any]
_ENDINGS = (".gpkg", ".geojson", ".json", ".shp", ".fgb")
_PARTS_OF_SHAPEFILE = (".cpg", ".dbf", ".prj", ".shx")
_STEP_PX = 64
"""Longest piece, in pixels, of an edge that is reprojected: an edge that is straight in the file's CRS is bent in the
image's, by 2 m on 10 km between degrees and UTM."""
_BLOCK = 4096
"""Polygons that are handed to GDAL at once, as Python's lists of coordinates."""
_AHEAD = 2048
"""Rows whose polygons are read at once: those of a band of shards. GeoJSON has no index, and is parsed as a whole for
every reading; a scene's polygons may be too many to hold all."""


def is_vector(path: Path) -> bool:
    """Whether a file holds polygons rather than pixels, by its ending."""
    return path.suffix.lower() in _ENDINGS


@dataclass(frozen=True, kw_only=True, eq=False)
class _Held:
    """The polygons of a stretch of rows, and maybe others, in the file's order."""

    rows: Range
    field: str
    shapes_N: Array
    """In pixels of the scene."""
    values_N: Array
    """Of the field."""
    bounds_N4: Array
    """Least column, least row, greatest column, greatest row of each."""


class VectorFile:
    """The polygons of a vector file, in pixels of a scene. Only what lies near the rows asked for is read and held."""

    def __init__(self, path: Path, image: Grid) -> None:
        """Raises SourceError when the file cannot be read, has no CRS, several layers or no polygons, or when the image
        has no georeference.
        """
        self.path, self._image = path, image
        log = path.with_name(f"{path.name}-wal")
        if log.is_file() and log.stat().st_size:
            raise SourceError(f"{path}: is being edited ({log.name} has changes that are not in it yet); save them, "
                              "and close the program that has it open")
        try:
            layers = pyogrio.list_layers(path)
            if len(layers) != 1:
                listed = ", ".join(sorted(str(name) for name, _ in layers))
                raise SourceError(f"{path}: has {len(layers)} layers ({listed or 'none'}); give a file with the one "
                                  "that is meant (ogr2ogr -f GPKG one.gpkg FILE LAYER)")
            info = pyogrio.read_info(path)
        except (DataSourceError, DataLayerError) as error:
            raise SourceError(f"{path}: cannot be read as a vector file ({error})") from error
        self.fields: tuple[str, ...] = tuple(map(str, info["fields"]))
        self._by_fid = info["driver"] in ("GPKG", "ESRI Shapefile", "FlatGeobuf")
        self._check_kind(info["geometry_type"])
        if not info["crs"]:
            raise SourceError(f"{path}: names no CRS; write one into it (ogr2ogr -a_srs EPSG:n)")
        if image.transform is None or image.crs is None:
            lacks = "no georeference" if image.transform is None else "no CRS (say which: --data.crs)"
            raise SourceError(f"{path}: its polygons have no place in {image.path}, which has {lacks}")
        self._crs = parse_crs(info["crs"], f"{path}: its CRS")
        self._same = self._crs == image.crs
        self._step = self._ground(_STEP_PX)
        self.empty = info["features"] == 0  # as labels of a place without objects often are; it may know no fields
        self._held: _Held | None = None

    def files(self) -> tuple[Path, ...]:
        """The files whose content decides the polygons: itself, and the parts of a shapefile that are there."""
        if self.path.suffix.lower() != ".shp":
            return (self.path,)
        beside = {path.suffix.lower(): path for path in sorted(self.path.parent.glob(f"{_escaped(self.path.stem)}.*"))}
        return self.path, *(beside[ending] for ending in _PARTS_OF_SHAPEFILE if ending in beside)

    def read(self, rows: Range, field: str = "") -> tuple[Array, Array]:
        """(polygons_N, values_N of a field) whose bounds meet a band of rows, in the file's order and the scene's
        pixels.

        Bands that follow each other share one reading of the file. Raises SourceError when the file cannot be read,
        what is there is not polygonal, or has no place in the CRS of the image.
        """
        if self.empty:
            return np.empty(0, object), np.empty(0, object)
        held = self._held
        if held is None or held.field != field or rows[0] < held.rows[0] or held.rows[1] < rows[1]:
            stop = min(-(-rows[1] // _AHEAD) * _AHEAD, self._image.shape[0])
            held = self._held = self._read((rows[0], stop), field)
        low_N2, high_N2 = np.split(held.bounds_N4, 2, axis=1)
        here_N = (low_N2 <= (self._image.shape[1], rows[1])).all(axis=1) & (high_N2 >= (0, rows[0])).all(axis=1)
        return held.shapes_N[here_N], held.values_N[here_N]

    def _read(self, rows: Range, field: str) -> _Held:
        columns = [field] if field else []
        try:
            _, fids_N, wkb_N, data = pyogrio.raw.read(self.path, columns=columns, bbox=self._bounds(rows),
                                                      force_2d=True, return_fids=True)
            shapes_N = shapely.from_wkb(wkb_N)
        except (DataSourceError, DataLayerError, shapely.errors.ShapelyError) as error:
            raise SourceError(f"{self.path}: cannot be read as a vector file ({error})") from error
        # A spatial index gives features in an order of its own. GeoJSON has none, and numbers its features at will.
        order_N = np.argsort(fids_N, kind="stable") if self._by_fid else np.arange(len(fids_N))
        order_N = order_N[~(shapely.is_missing(shapes_N) | shapely.is_empty(shapes_N))[order_N]]
        shapes_N, values_N = shapes_N[order_N], data[0][order_N] if field else order_N
        for kind in {shape.geom_type for shape in shapes_N}:
            self._check_kind(kind)
        shapes_N = self._to_pixels(shapes_N)
        there_N = ~shapely.is_empty(shapes_N)
        return _Held(rows=rows, field=field, shapes_N=shapes_N[there_N], values_N=values_N[there_N],
                     bounds_N4=shapely.bounds(shapes_N[there_N]).reshape(-1, 4))

    def values(self, field: str) -> Array:
        """A field of all polygons, wherever they lie. Raises SourceError."""
        try:
            values_N: Array = pyogrio.raw.read(self.path, columns=[field], read_geometry=False)[3][0]
        except (DataSourceError, DataLayerError) as error:
            raise SourceError(f"{self.path}: cannot be read as a vector file ({error})") from error
        return values_N

    def _check_kind(self, kind: str | None) -> None:
        name = (kind or "none").split()[0]
        if name not in ("Polygon", "MultiPolygon", "CurvePolygon", "MultiSurface", "Unknown"):
            raise SourceError(f"{self.path}: holds geometry of type {name}, but polygons are needed; leave out what is "
                              "none (ogr2ogr -where \"OGR_GEOMETRY='POLYGON'\")")

    def _to_pixels(self, shapes_N: Array) -> Array:
        if not self._same:
            shapes_N = shapely.segmentize(self._cut(shapes_N), self._step)
        placed_N: Array = shapely.transform(shapes_N, self._xy_to_pixels)
        lost = int((~np.isfinite(shapely.bounds(placed_N))).any(axis=1).sum())
        if lost:
            raise SourceError(f"{self.path}: {lost:,} of its polygons reach where {name_of(self._image.crs)} has no "
                              "coordinates; cut them to the scene's surroundings (ogr2ogr -clipsrc)")
        return placed_N

    def _cut(self, shapes_N: Array) -> Array:
        """Polygons that reach far beyond the scene cut to its surroundings: a projection has no place for, or folds,
        what lies continents away.
        """
        west, south, east, north = self._bounds((0, self._image.shape[0]))
        width, height = east - west, north - south
        box = (west - width, south - height, east + width, north + height)
        low_N2, high_N2 = np.split(shapely.bounds(shapes_N).reshape(-1, 4), 2, axis=1)
        far_N = (low_N2 < box[:2]).any(axis=1) | (high_N2 > box[2:]).any(axis=1)
        try:
            return np.where(far_N, shapely.clip_by_rect(shapes_N, *box), shapes_N)
        except shapely.errors.ShapelyError as error:
            raise SourceError(f"{self.path}: a polygon cannot be cut to the scene's surroundings ({error}); mend it "
                              "(ogr2ogr -makevalid)") from error

    def _xy_to_pixels(self, xy_M2: Array) -> Array:
        x, y = xy_M2.T
        if not self._same:
            with self._reprojecting():
                x, y = map(np.asarray, transform(self._crs, self._image.crs, x, y))
        pixels_M2: Array = np.ldexp(np.rint(np.ldexp(self._image.to_pixels(x, y).T, 20)), -20)
        return pixels_M2

    def _reprojecting(self) -> AbstractContextManager[None]:
        return reading(self.path, f"is in {name_of(self._crs)}, which does not go with {self._image.path}")

    def _ground(self, pixels: int) -> float:
        """How long some pixels at the middle of the scene are, in units of the file's CRS."""
        rows, cols = self._image.shape
        x, y = self._image.to_xy(cols / 2 + np.array([0.0, pixels, 0.0]), rows / 2 + np.array([0.0, 0.0, pixels]))
        with self._reprojecting():
            x, y = map(np.asarray, transform(self._image.crs, self._crs, x, y))
        length = float(np.hypot(x[1:] - x[0], y[1:] - y[0]).max())
        if not np.isfinite(length):
            raise SourceError(f"{self.path}: {name_of(self._crs)} has no coordinates where {self._image.path} lies")
        return length

    def _bounds(self, rows: Range) -> tuple[float, float, float, float]:
        """What a band of rows covers in the file's CRS, and a little more."""
        x, y = self._image.to_xy(np.array([0.0, self._image.shape[1]] * 2), np.array(rows, float).repeat(2))
        with self._reprojecting():
            west, south, east, north = transform_bounds(self._image.crs, self._crs, x.min(), y.min(), x.max(), y.max())
        return west - self._step, south - self._step, east + self._step, north + self._step


def burn(shapes_N: Array, codes_N: Array, rows: Range, width: int) -> Array:
    """The code of the last polygon that holds a pixel's centre, -1 where none does: (rows, width) int16 or int32.

    Polygons are in pixels of the scene, codes from 0 on.
    """
    dtype = np.int16 if not len(codes_N) or codes_N.max() < 1 << 15 else np.int32
    codes_HW = np.full((rows[1] - rows[0], width), -1, dtype)
    parts_N, of_N = shapely.get_parts(shapes_N, return_index=True)
    whole_N = ~shapely.is_empty(parts_N)  # a polygon of several parts may have empty ones
    parts_N, codes_N = parts_N[whole_N], codes_N[of_N[whole_N]]
    for first in range(0, len(parts_N), _BLOCK):
        here = slice(first, first + _BLOCK)
        rasterize(zip(parts_N[here], codes_N[here].tolist()), out=codes_HW, transform=Affine.translation(0, rows[0]),
                  skip_invalid=False)
    return codes_HW


def _escaped(name: str) -> str:
    """A name as a pattern that finds that name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
