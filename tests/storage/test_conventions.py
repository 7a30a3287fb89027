"""GeoZarr's and CF's attributes: valid by zarr-cm, the conventions' own library, and read rightly by xarray."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401 (registers .rio)
import xarray as xr
import zarr
import zarr_cm
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import Affine as Transform
from rasterio.transform import array_bounds
from rasterio.warp import transform_bounds

import patchstore
from patchstore.format import conventions
from patchstore.format.schema import Affine, ClassInfo, Scene, colour
from patchstore.format.windows import level_shape, levels_of
from patchstore.testing import scenes

UTM = CRS.from_epsg(32633).to_wkt()
CLASSES = (ClassInfo("water", (0, 0, 255)), ClassInfo("built-up area", (200, 0, 0)), ClassInfo("forêt", (0, 99, 0)))
GENERATED = [ClassInfo(name, colour(code)) for name, code in (text.split("=") for text in scenes.CLASSES)]
PLACED: Affine = (0.5, 0.0, 500000.25, 0.0, -0.5, 5000000.75)
TURNED: Affine = (0.4, 0.3, 500000.0, 0.3, -0.4, 5000000.0)


def make_scene(shape: tuple[int, int] = (301, 203), crs: str | None = UTM, transform: Affine | None = PLACED) -> Scene:
    return Scene(name="a", shape=shape, crs=crs, transform=transform, group="a", origin=(0, 0), fingerprint="f",
                 version="v", levels=levels_of(shape), has_mask=True, has_valid=True, ignored=0, ignored_values=(),
                 class_pixels=(), band_sums=(), pixel_m2=None, notes=(), manifest="")


def pixels(scene: Scene, level: int) -> np.ndarray:
    return np.random.default_rng(level).integers(0, 256, (3, *level_shape(scene.shape, level)), np.uint8)


def write(path: Path, scene: Scene) -> str:
    """The scene's version as a Zarr group, by hand."""
    root = zarr.create_group(path, zarr_format=3, attributes=conventions.version_attributes(scene))
    for level in range(scene.levels):
        group = root.create_group(str(level), attributes=conventions.level_attributes(scene, level))
        image_BHW = pixels(scene, level)
        arrays = (("image", image_BHW), ("mask", image_BHW[0] % 3), ("valid", image_BHW[0] > 0))
        for name, values in arrays:
            group.create_array(name, data=values, dimension_names=("band", "y", "x")[3 - values.ndim:],
                               attributes=conventions.array_attributes(scene, name, CLASSES))
        for c in conventions.coordinates(scene, level):
            group.create_array(c.name, data=c.values, dimension_names=c.dims, attributes=c.attributes)
    root.create_array("counts", data=np.zeros((5, 4, 3), np.uint16), dimension_names=("cell_y", "cell_x", "class"))
    return str(path)


def check(attributes: dict[str, Any]) -> set[str]:
    """Names of the conventions that a group registers. Raises ValueError where it does not keep to one of them."""
    attributes = json.loads(json.dumps(attributes, allow_nan=False))
    zarr_cm.validate_all(attributes)
    return set(zarr_cm.detect_revisions(attributes))


@pytest.mark.parametrize("transform", [PLACED, TURNED, None])
@pytest.mark.parametrize("crs", [UTM, CRS.from_epsg(4326).to_wkt(), "esri", None])
def test_groups_keep_to_the_conventions_that_they_register(crs: str | None, transform: Affine | None) -> None:
    scene = make_scene(crs=CRS.from_user_input("ESRI:102008").to_wkt() if crs == "esri" else crs, transform=transform)
    proj = {"proj"} if crs else set()
    version = conventions.version_attributes(scene)
    assert check(version) == {"multiscales"} | proj | ({"spatial"} if transform else set())
    assert all("spatial:transform" in item for item in version["multiscales"]["layout"]) == bool(transform)
    assert not {"spatial:transform", "spatial:shape"} & version.keys()  # they stand with each level
    for level in range(scene.levels):
        attributes = conventions.level_attributes(scene, level)
        assert check(attributes) == {"spatial"} | proj
        assert ("proj:wkt2" in attributes) == bool(crs)
        assert ("spatial:transform" in attributes) == bool(transform)


def test_what_breaks_them_is_refused() -> None:
    attributes = conventions.version_attributes(make_scene())
    for change in ({"multiscales": {"layout": []}}, {"multiscales": {"layout": [{"asset": "1", "derived_from": "0"}]}},
                   {"spatial:bbox": [0, 1, 2]}, {"spatial:dimensions": ["x"]}, {"proj:code": "32633"}):
        with pytest.raises(ValueError, match=r".+"):
            check({**attributes, **change})


def test_the_crs_has_a_code_only_where_it_is_exactly_that() -> None:
    assert conventions.level_attributes(make_scene(), 0)["proj:code"] == "EPSG:32633"
    own = CRS.from_string("+proj=tmerc +lat_0=0 +lon_0=15.1 +k=0.9996 +x_0=500000 +ellps=WGS84 +units=m")
    attributes = conventions.level_attributes(make_scene(crs=own.to_wkt()), 0)
    assert "proj:code" not in attributes
    assert CRS.from_wkt(attributes["proj:wkt2"]) == own


def test_a_crs_that_is_none_is_an_error() -> None:
    scene = make_scene(crs="nonsense")
    for function in (conventions.version_attributes, lambda s: conventions.level_attributes(s, 0),
                     lambda s: conventions.coordinates(s, 0)):
        with pytest.raises(patchstore.SourceError, match="scene a: its coordinate reference system"):
            function(scene)


@settings(deadline=None)
@given(rows=st.integers(1, 3000), cols=st.integers(1, 3000), transform=st.tuples(*[st.integers(-99, 99)] * 6))
def test_every_level_lies_on_the_same_ground(rows: int, cols: int, transform: tuple[int, ...]) -> None:
    a, b, c, d, e, f = map(float, transform)
    scene = make_scene((rows, cols), transform=(a, b, c, d, e, f))
    attributes = conventions.version_attributes(scene)
    full = Transform(a, b, c, d, e, f)
    corners = [full @ corner for corner in ((0, 0), (cols, 0), (0, rows), (cols, rows))]
    assert attributes["spatial:bbox"] == [*np.min(corners, 0), *np.max(corners, 0)]
    for level, item in enumerate(attributes["multiscales"]["layout"]):
        assert {key: item[key] for key in item if key.startswith("spatial:")}.items() <= (
            conventions.level_attributes(scene, level).items())
        own, (height, width) = Transform(*item["spatial:transform"]), item["spatial:shape"]
        k = 2 ** level
        assert item["asset"] == str(level)
        assert item["transform"]["scale"] == [k, k]
        assert own @ (0, 0) == full @ (0, 0)
        assert own @ (3, 5) == full @ (3 * k, 5 * k)
        assert (rows <= height * k < rows + k, cols <= width * k < cols + k) == (True, True)
        named = {c.name: c.values for c in conventions.coordinates(scene, level)}
        assert ("x" in named) == (b == d == 0)
        if "x" in named:
            assert named["x"].tolist() == [(own @ (i + 0.5, 0))[0] for i in range(width)]
            assert named["y"].tolist() == [(own @ (0, i + 0.5))[1] for i in range(height)]


def test_axes_say_what_they_are() -> None:
    def units(crs: str | None) -> dict[str, tuple[str | None, str | None]]:
        found = conventions.coordinates(make_scene(crs=crs), 0)
        return {c.name: (c.attributes.get("standard_name"), c.attributes.get("units")) for c in found if c.dims}

    assert units(UTM) == {"x": ("projection_x_coordinate", "metre"), "y": ("projection_y_coordinate", "metre")}
    assert units(CRS.from_epsg(2263).to_wkt())["x"][1] == "0.30480060960121924 metre"  # US survey feet
    assert units(CRS.from_epsg(4326).to_wkt()) == {"x": ("longitude", "degrees_east"),
                                                   "y": ("latitude", "degrees_north")}
    assert units(CRS.from_epsg(4807).to_wkt())["x"] == ("longitude", None)  # grads
    assert units('LOCAL_CS["site",UNIT["metre",1]]') == units(None) == {"x": (None, None), "y": (None, None)}


def test_the_mask_names_its_classes() -> None:
    attributes = conventions.array_attributes(make_scene(), "mask", CLASSES, ignore=250)
    assert attributes["flag_values"] == [0, 1, 2, 250]
    assert attributes["flag_meanings"] == "water built-up_area for_t ignored"
    with pytest.raises(ValueError, match="got 'counts'"):
        conventions.array_attributes(make_scene(), "counts")


def read_right(dataset: xr.Dataset, scene: Scene, level: int) -> None:
    """xarray and rioxarray see the level of a scene that lies along the axes."""
    rows, cols = level_shape(scene.shape, level)
    a, b, c, d, e, f = scene.transform or (1, 0, 0, 0, 1, 0)
    transform = Transform(a * 2 ** level, b, c, d, e * 2 ** level, f)
    image = dataset["image"]
    assert (image.dims, image.shape[1:], image.dtype) == (("band", "y", "x"), (rows, cols), np.uint8)
    assert dataset["mask"].dtype == np.uint8  # no labels made floats by a _FillValue
    for seen in (dataset, *dataset.data_vars.values()):
        assert seen.rio.crs == CRS.from_wkt(scene.crs)
        assert seen.rio.transform() == seen.rio.transform(recalc=True) == transform
        assert seen.rio.bounds() == array_bounds(rows, cols, transform)
        assert (seen.rio.height, seen.rio.width) == (rows, cols)
    left, top = transform @ (10, 20)
    right, bottom = transform @ (14, 23)
    inside = abs(a) / 4  # clip_box keeps pixels that a bound touches
    clipped = image.rio.clip_box(left + inside, bottom + inside, right - inside, top - inside)
    assert np.array_equal(clipped.values, image.values[:, 20:23, 10:14])
    assert clipped.rio.bounds() == (left, bottom, right, top)


@pytest.mark.parametrize("decode", [True, "all"])
def test_xarray_opens_a_level_with_its_place(tmp_path: Path, decode: Any) -> None:
    scene = make_scene()
    path = write(tmp_path / "v", scene)
    for level in range(scene.levels):
        dataset = xr.open_zarr(path, group=str(level), consolidated=False, decode_coords=decode)
        assert set(dataset.data_vars) == {"image", "mask", "valid"}
        assert set(dataset.coords) == {"x", "y", "spatial_ref"}
        assert np.array_equal(dataset["image"].values, pixels(scene, level))
        read_right(dataset, scene, level)
    turned = dataset["image"].rio.reproject("EPSG:4326")
    left, bottom, right, top = transform_bounds(UTM, "EPSG:4326", *dataset.rio.bounds())
    assert turned.rio.bounds() == pytest.approx((left, bottom, right, top), abs=4e-5)  # 4 m, a pixel of this level
    assert np.isin(turned.values, [*np.unique(dataset["image"]), turned.rio.nodata]).all()


def test_a_turned_scene_keeps_its_transform_and_has_no_axes(tmp_path: Path) -> None:
    path = write(tmp_path / "v", make_scene(transform=TURNED))
    dataset = xr.open_zarr(path, group="1", consolidated=False)
    assert set(dataset.coords) == {"spatial_ref"}
    assert dataset["image"].rio.crs == CRS.from_wkt(UTM)
    assert dataset["image"].rio.transform() == Transform(0.8, 0.6, 500000.0, 0.6, -0.8, 5000000.0)


@pytest.mark.parametrize(("transform", "coords"), [(None, set()), (PLACED, {"x", "y"})])
def test_a_scene_without_a_crs_opens(tmp_path: Path, transform: Affine | None, coords: set[str]) -> None:
    scene = make_scene(crs=None, transform=transform)
    dataset = xr.open_zarr(write(tmp_path / "v", scene), group="0", consolidated=False)
    assert set(dataset.coords) == coords
    assert dataset["image"].rio.crs is None
    assert np.array_equal(dataset["image"].values, pixels(scene, 0))
    if transform:
        assert dataset["image"].rio.transform() == Transform(*transform)


def test_xarray_opens_a_version_as_a_tree(tmp_path: Path) -> None:
    scene = make_scene()
    tree = xr.open_datatree(write(tmp_path / "v", scene), engine="zarr", consolidated=False)
    assert [item["asset"] for item in tree.attrs["multiscales"]["layout"]] == sorted(tree.children)
    for level in range(scene.levels):
        read_right(tree[str(level)].to_dataset(), scene, level)


# ---- the same of a store that ingest has written ----


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Scene]:
    """The version's folder of an ingested georeferenced scene, and the scene."""
    source, uri = tmp_path_factory.mktemp("source"), str(tmp_path_factory.mktemp("store") / "s.zarr")
    for part in ("images", "masks"):
        (source / part).mkdir()
    scenes.write_scene(source / "images" / "a.tif", source / "masks" / "a.tif", seed=1, shape=(301, 203))
    patchstore.create(uri, dtype="uint8", bands=3, classes=GENERATED)
    patchstore.ingest(uri, patchstore.find_folder(source).scenes[0])
    scene = patchstore.open(uri).scenes["a"]
    return f"{uri}/a/{scene.version}", scene


def test_an_ingested_scene_keeps_to_the_conventions(ingested: tuple[str, Scene]) -> None:
    path, scene = ingested
    assert check(json.loads(Path(path, "zarr.json").read_text())["attributes"]) == {"multiscales", "spatial", "proj"}
    for level in range(scene.levels):
        assert check(json.loads(Path(path, str(level), "zarr.json").read_text())["attributes"]) == {"spatial", "proj"}


def test_xarray_opens_an_ingested_scene(ingested: tuple[str, Scene]) -> None:
    path, scene = ingested
    tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    assert {"counts", "moments"} <= set(tree.data_vars)
    for level in range(scene.levels):
        dataset = xr.open_zarr(path, group=str(level), consolidated=False)
        assert dataset.identical(tree[str(level)].to_dataset())
        assert set(dataset.coords) == {"x", "y", "spatial_ref"}
        read_right(dataset, scene, level)
    assert dataset["mask"].attrs["flag_meanings"] == "field building woodland water road ignored"


def test_an_ingested_level_is_what_the_store_reads(ingested: tuple[str, Scene]) -> None:
    path, _ = ingested
    dataset = xr.open_zarr(path, group="0", consolidated=False)
    images_NBHW, labels_NHW = patchstore.open(Path(path).parents[1]).read([patchstore.Window("a", 64, 32, 128)], 128)
    there = dataset.isel(y=slice(64, 192), x=slice(32, 160))
    assert np.array_equal(there["image"].values, images_NBHW[0])
    assert np.array_equal(there["mask"].values, labels_NHW[0])
