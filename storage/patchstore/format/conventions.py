"""What a scene's groups and arrays say to other tools, by GeoZarr's conventions and CF's. Pure: no input, no output.

    SCENE/VERSION          multiscales, proj:, spatial:     the levels, each with its transform
    SCENE/VERSION/LEVEL    proj:, spatial:                  they hold for the arrays right below
    …/LEVEL/image, mask, valid                              CF: grid_mapping, the classes as flags
    …/LEVEL/x, y, spatial_ref                               CF: centres of pixels, CRS; what xarray and rioxarray read

Sources, as of their release v0.1: github.com/zarr-conventions/multiscales, /proj, /spatial; CF 1.11, sections 3.5 and
5.6. What the scene does not have is left out: no CRS, no proj:; no transform, no spatial:transform, no coordinates.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchstore.errors import SourceError
from patchstore.format.schema import Affine, ClassInfo, Scene
from patchstore.format.windows import level_shape

if TYPE_CHECKING:  # GDAL comes along, and what only reads a store needs none of it: it is imported where a CRS is read
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

GRID_MAPPING = "spatial_ref"
"""Name of the variable that holds the CRS; rioxarray's and GDAL's own."""

_STRETCHED = ("merc", "webmerc", "eqc")
"""Projections of the whole earth, as PROJ names them, that stretch the ground with the latitude: at 60 degrees a pixel
of Web Mercator would seem four times as large as it is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Coordinate:
    """A small array that stands beside the pixels of a level."""

    name: str
    dims: tuple[str, ...]
    """Names of its dimensions; none for a scalar."""
    values: NDArray[Any]
    """float64 in units of the CRS, or one int64 that means nothing where the attributes are the content."""
    attributes: dict[str, Any]


def version_attributes(scene: Scene) -> dict[str, Any]:
    """Attributes of SCENE/VERSION. Raises SourceError when the CRS cannot be expressed.

    Shape and transform stand with each level and not here as well, where they could contradict (as the spatial:
    convention advises).
    """
    proj = _proj(scene)
    # spatial: asks for a transform of every level of a pyramid, so that one without a place does not register it.
    placed = scene.transform is not None
    spatial: dict[str, Any] = {}
    if scene.transform is not None:
        spatial = {"spatial:dimensions": ["y", "x"], "spatial:bbox": _bounds(scene.shape, scene.transform)}
    return {"zarr_conventions": [_MULTISCALES, *[_PROJ] * bool(proj), *[_SPATIAL] * placed],
            "multiscales": {"layout": [_layout(scene, level) for level in range(scene.levels)],
                            "resampling_method": "average"},
            **proj, **spatial}


def level_attributes(scene: Scene, level: int) -> dict[str, Any]:
    """Attributes of SCENE/VERSION/LEVEL. Raises SourceError when the CRS cannot be expressed."""
    proj = _proj(scene)
    # With the name under "coordinates" xarray takes the CRS along with each array, without being asked to.
    coordinates = {"coordinates": GRID_MAPPING} if proj else {}
    return {"zarr_conventions": [*[_PROJ] * bool(proj), _SPATIAL], **proj, "spatial:dimensions": ["y", "x"],
            **_placement(scene, level), "spatial:registration": "pixel", **coordinates}


def array_attributes(scene: Scene, name: str, classes: Sequence[ClassInfo] = (), ignore: int = 255) -> dict[str, Any]:
    """Attributes of image, mask or valid; the classes and the ignored label are those of the store.

    No array has a _FillValue: xarray would turn labels into floats by it, and nodata stands in `valid`.
    Raises ValueError for any other name.
    """
    mapping = {"grid_mapping": GRID_MAPPING} if scene.crs is not None else {}
    if name == "image":
        return {"long_name": "pixels", **mapping}
    if name == "valid":
        return {"long_name": "whether the pixel is real", **mapping}
    if name == "mask":
        meanings = [re.sub(r"[^\w.+@-]+", "_", info.name, flags=re.ASCII) for info in classes]
        return {"long_name": "class", "flag_values": [*range(len(classes)), ignore],
                "flag_meanings": " ".join([*meanings, "ignored"]),
                "comment": "coarser levels hold the majority of their pixels at full resolution", **mapping}
    raise ValueError(f"name must be image, mask or valid, got {name!r}")


def coordinates(scene: Scene, level: int) -> list[Coordinate]:
    """The arrays x, y and spatial_ref of a level, as far as it has them.

    x and y: none where pixels do not lie along the axes (a rotated transform) or nowhere at all. spatial_ref: where
    there is a CRS. Raises SourceError when that cannot be expressed.
    """
    crs = _crs(scene)
    transform = None if scene.transform is None else _level_transform(scene.transform, level)
    found = []
    if transform is not None and transform[1] == transform[3] == 0:
        a, _, c, _, e, f = transform
        rows, cols = level_shape(scene.shape, level)
        for name, start, step, count in (("x", c, a, cols), ("y", f, e, rows)):
            found.append(Coordinate(name=name, dims=(name,), values=start + step * (np.arange(count) + 0.5),
                                    attributes=_axis(name, crs)))
    if crs is not None:
        attributes = {"crs_wkt": _wkt2(scene.name, crs)}
        if transform is not None:
            a, b, c, d, e, f = transform
            attributes["GeoTransform"] = " ".join(repr(float(v)) for v in (c, a, b, f, d, e))  # GDAL's order
        found.append(Coordinate(name=GRID_MAPPING, dims=(), values=np.array(0, np.int64), attributes=attributes))
    return found


def pixel_m2(crs: str | None, transform: Affine | None) -> float | None:
    """Ground area of a pixel in square metres, by the CRS (WKT) and its own unit of length.

    None where it is not known: without CRS or transform, in degrees, and in projections whose metres are not metres on
    the ground. Raises SourceError when the CRS cannot be read.
    """
    if crs is None or transform is None:
        return None
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        known = CRS.from_wkt(crs)
    except CRSError as error:
        raise SourceError(f"{crs[:60]!r} is no coordinate reference system ({error}); give the source another, with "
                          "gdal_edit or gdalwarp") from None
    if not known.is_projected or known.to_dict().get("proj") in _STRETCHED:
        return None
    a, b, _, d, e, _ = transform
    return float(abs(a * e - b * d) * known.linear_units_factor[1] ** 2)


def _convention(name: str, uuid: str, description: str) -> dict[str, str]:
    return {"uuid": uuid, "name": name, "description": description,
            "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json",
            "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md"}


_MULTISCALES = _convention("multiscales", "d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets")
_PROJ = _convention("proj", "f17cb550-5864-4468-aeb7-f3180cfb622f",
                    "Coordinate reference system information for geospatial data")
_SPATIAL = _convention("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information")


def _layout(scene: Scene, level: int) -> dict[str, Any]:
    scale = {"transform": {"scale": [float(1 << level)] * 2, "translation": [0.0, 0.0]}}
    derived = {"derived_from": "0"} if level else {}  # each level straight from the full resolution
    return {"asset": str(level), **derived, **scale, **_placement(scene, level)}


def _placement(scene: Scene, level: int) -> dict[str, Any]:
    placement: dict[str, Any] = {"spatial:shape": list(level_shape(scene.shape, level))}
    if scene.transform is not None:
        placement["spatial:transform"] = list(_level_transform(scene.transform, level))
    return placement


def _level_transform(transform: Affine, level: int) -> Affine:
    """The scene's transform with pixels 2^level as large from the same corner on."""
    a, b, c, d, e, f = (float(v) for v in transform)
    k = float(1 << level)
    return a * k, b * k, c, d * k, e * k, f


def _bounds(shape: tuple[int, int], transform: Affine) -> list[float]:
    """Least x, least y, greatest x, greatest y of a scene's corners."""
    a, b, c, d, e, f = transform
    corners = [(col, row) for row in (0, shape[0]) for col in (0, shape[1])]
    xs = [a * col + b * row + c for col, row in corners]
    ys = [d * col + e * row + f for col, row in corners]
    return [float(v) for v in (min(xs), min(ys), max(xs), max(ys))]


def _proj(scene: Scene) -> dict[str, str]:
    """The CRS: WKT2 always, as the proj: convention advises, and its EPSG code where it is exactly that."""
    crs = _crs(scene)
    if crs is None:
        return {}
    code = crs.to_epsg(confidence_threshold=100)
    return {**({} if code is None else {"proj:code": f"EPSG:{code}"}), "proj:wkt2": _wkt2(scene.name, crs)}


def _axis(name: str, crs: "CRS | None") -> dict[str, str]:
    """CF's attributes of x or y."""
    axis = {"axis": name.upper()}
    if crs is not None and crs.is_geographic:
        word, unit = {"x": ("longitude", "degrees_east"), "y": ("latitude", "degrees_north")}[name]
        units = {"units": unit} if crs.units_factor[0] == "degree" else {}
        return {**axis, "standard_name": word, "long_name": word, **units}
    if crs is not None and crs.is_projected:
        metres = crs.linear_units_factor[1]
        return {**axis, "standard_name": f"projection_{name}_coordinate", "long_name": f"{name} in the projection",
                "units": "metre" if metres == 1 else f"{metres!r} metre"}
    return axis


def _crs(scene: Scene) -> "CRS | None":
    if scene.crs is None:
        return None
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        return CRS.from_wkt(scene.crs)
    except CRSError as error:
        raise _no_crs(scene.name, error) from None


def _wkt2(scene: str, crs: "CRS") -> str:
    from rasterio.errors import CRSError

    try:
        return str(crs.to_wkt(version="WKT2_2019"))
    except CRSError as error:
        raise _no_crs(scene, error) from None


def _no_crs(scene: str, error: "CRSError") -> SourceError:
    return SourceError(f"scene {scene}: its coordinate reference system cannot be written as WKT2 ({error}); give the "
                       "source another, with gdal_edit or gdalwarp")
