"""What is mapped: every form of naming inputs finds the same pixels, and bad ones are told before anything is done."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine
from rasterio.warp import transform as reproject

import patchstore
from patchstore import SourceError, Store, StoreError
from support.georeferenced import CLASSES, CRS, GEO, HW, INDEX, PLACE, at, pixels_of, scene, square, write_polygons
from support.rasters import write
from swath.errors import DataError
from swath.maps import inputs
from swath.maps.inputs import Input
from swath.prediction import streaming

U8 = np.dtype("uint8")
pytestmark = [pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),  # the rasters made here
              pytest.mark.filterwarnings("ignore:'crs' was not provided")]


def find(wanted: object, bands: int = 3, dtype: np.dtype = U8) -> list[Input]:
    return inputs.find(str(wanted), bands=bands, dtype=dtype)


def names(wanted: object) -> list[str]:
    return [each.name for each in find(wanted)]


@pytest.fixture(name="folder")
def some_rasters(tmp_path: Path) -> Path:
    """b.tif and a.tif, more in folders below, and files that are none."""
    for seed, name in enumerate(["b.tif", "a.tif", "x/c.tif", "x/y/d.tif"]):
        write(tmp_path / "in" / name, pixels_of(seed=seed), **GEO)
    (tmp_path / "in" / "notes.txt").write_text("none")
    (tmp_path / "in" / "a.tif.aux.xml").write_text("<PAMDataset/>")
    return tmp_path / "in"


def test_files_folders_and_globs_name_inputs(folder: Path) -> None:
    assert names(folder / "b.tif") == ["b"]
    assert names(folder) == ["a", "b"]
    assert names(folder / "a*") == ["a"], "what GDAL keeps beside a raster is none"
    assert names(folder / "**" / "*.tif") == ["a", "b", "c", "d"]
    write(folder / "odd[1].tif", pixels_of())
    assert names(folder / "odd[1].tif") == ["odd[1]"]
    a = find(folder)[0]
    assert (a.shape, a.bands, a.dtype, a.transform) == (HW, 3, U8, tuple(PLACE)[:6])
    assert rasterio.CRS.from_wkt(a.crs) == rasterio.CRS.from_string(CRS)
    assert a.origin == str(folder / "a.tif")


def test_a_store_and_its_scenes_name_inputs(store: Store, dataset: Path) -> None:
    assert names(store.uri) == sorted(store.scenes)
    assert names(f"{store.uri}/") == sorted(store.scenes)
    assert names(f"file://{store.uri}") == sorted(store.scenes)
    [one] = find(f"{store.uri}/g1_s0")
    [file] = find(dataset / "images" / "g1_s0.tif")
    assert one.origin == f"{store.uri}: scene g1_s0"
    assert one.fingerprint == store.scenes["g1_s0"].fingerprint
    assert (one.name, one.shape, one.transform) == (file.name, file.shape, file.transform)
    windows = [(0, 0, 64), (-7, 300, 64), (5, 9, 256)]
    np.testing.assert_array_equal(one.read(windows, 64), file.read(windows, 64))
    assert one.valid((0, 5), (0, 9)) is None
    assert file.valid((0, 5), (0, 9)) is None


def test_a_file_and_its_scene_agree_on_valid_pixels_and_area(tmp_path: Path) -> None:
    image = pixels_of()
    image[:, 10:20, 30:] = 7
    path = write(tmp_path / "a.tif", image, nodata=7, **GEO)
    uri = patchstore.create(tmp_path / "s.zarr", dtype="uint8", bands=3, classes=CLASSES, chunk=64, shard=64)
    patchstore.ingest(uri, scene(path), INDEX)
    area = write_polygons(tmp_path / "p.gpkg", [square(3, 4, 30, 40)], kind="Polygon", n=[1])
    whole = ((0, HW[0]), (0, HW[1]))
    for each in (find(path)[0], find(uri)[0]):
        np.testing.assert_array_equal(each.valid(*whole), (image != 7).any(axis=0))
        found = inputs.area(area, each)
        assert found is not None
        assert found.region == ((3, 33), (4, 44))


def test_an_input_pickles_and_is_a_reader(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for each in (find(f"{store.uri}/g0_s1")[0], find("a.tif")[0]):
        monkeypatch.chdir(folder)
        content = pickle.dumps(each)
        monkeypatch.chdir(folder.parent)
        again = pickle.loads(content)  # noqa: S301
        np.testing.assert_array_equal(again.read([(3, 4, 32)], 32), each.read([(3, 4, 32)], 32))
        whole = streaming.part(again, size=32, scales=(1,), overlap=0.5)
        rows = streaming.blend(whole, lambda images: images[:, 0, :2].float(), classes=2, batch=4)
        assert sum(scores.shape[1] for _, scores in rows) == each.shape[0]
        assert again.fingerprint == each.fingerprint


def test_a_fingerprint_changes_with_the_file_and_only_then(folder: Path) -> None:
    path = folder / "a.tif"
    before = find(path)[0].fingerprint
    assert find(folder / "*.tif")[0].fingerprint == before
    (folder / "a.tif.aux.xml").write_text("<PAMDataset><!-- a viewer was here --></PAMDataset>")
    assert find(path)[0].fingerprint == before
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1000))
    touched = find(path)[0].fingerprint
    assert touched != before
    with rasterio.open(path, "r+") as file:
        file.transform = PLACE @ Affine.translation(1, 0)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1000))
    assert find(path)[0].fingerprint != touched, "another place"
    shutil.copy2(path, folder / "other.tif")
    assert find(path)[0].fingerprint != find(folder / "other.tif")[0].fingerprint


def test_all_bad_files_are_told_at_once(folder: Path) -> None:
    write(folder / "c.tif", pixels_of((4, *HW)))
    write(folder / "d.tif", pixels_of(dtype="uint16"))
    write(folder / "b.png", pixels_of())
    (folder / "e.tif").write_bytes(b"no raster")
    with pytest.raises(DataError) as caught:
        find(folder)
    first, *lines = str(caught.value).splitlines()
    assert first == f"4 problems with the 6 files of {folder}:"
    for line, said in zip(lines, ("c.tif: has 4 bands of uint8, but 3 of uint8 are needed",
                                  "d.tif: has 3 bands of uint16, but 3 of uint8 are needed",
                                  "e.tif: cannot be read as a raster (",
                                  "b.png, "), strict=True):
        assert said in line
    assert "b.tif: all would be written as b; rename them" in lines[-1]
    with pytest.raises(DataError, match=r"notes\.txt: cannot be read as a raster") as caught:
        find(folder / "n*")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("wanted", "error", "said"), [
    ("absent.tif", DataError, r"absent\.tif: no such file or folder; give a raster"),
    ("empty", DataError, "empty: has no rasters"),
    ("*.vrt", DataError, "finds no file"),
    ("STORE/g0_s9", DataError, "has no scene 'g0_s9'; did you mean 'g0_s"),
    ("file://STORE/x/y", DataError, "there is no store, nor a scene of one"),
    ("ftp://server/store", StoreError, "not the address of a store"),
    ("STORE", DataError, "has 3 bands of uint8, but 4 of uint8 are needed"),
])
def test_what_names_nothing_is_one_clear_line(tmp_path: Path, store: Store, wanted: str, error: type[Exception],
                                              said: str) -> None:
    (tmp_path / "empty").mkdir()
    text = wanted.replace("STORE", store.uri) if "STORE" in wanted or "://" in wanted else str(tmp_path / wanted)
    with pytest.raises(error, match=said) as caught:
        find(text, bands=4 if wanted == "STORE" else 3)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_says_so_where_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", pixels_of(), compress="deflate", blockysize=8)
    path.write_bytes(path.read_bytes()[:-9000])
    [damaged] = find(path)
    with pytest.raises(SourceError, match=r"a\.tif: cannot be read as a raster"):
        damaged.read([(0, 0, 64), (40, 40, 64)], 64)


def test_no_valid_pixels_an_own_crs_and_a_rotation_work(tmp_path: Path) -> None:
    own = rasterio.CRS.from_proj4("+proj=laea +lat_0=52.1 +lon_0=15.3 +ellps=GRS80 +units=m")
    turned = PLACE @ Affine.rotation(20)
    path = write(tmp_path / "a.tif", np.full((3, *HW), 7, np.uint8), nodata=7, crs=own, transform=turned)
    [each] = find(path)
    valid_HW = each.valid((0, HW[0]), (0, HW[1]))
    assert valid_HW is not None
    assert not valid_HW.any()
    assert rasterio.CRS.from_wkt(each.crs) == own
    assert own.to_epsg() is None
    assert each.transform == tuple(turned)[:6]


def holds(shapes: list[shapely.Geometry]) -> np.ndarray:
    """Which pixels have their centre in one of some shapes: the reference."""
    rows, cols = np.indices(HW) + 0.5
    return np.any([shapely.contains_xy(shape, *(PLACE @ (cols, rows))) for shape in shapes], axis=0)


@pytest.mark.parametrize(("ending", "crs"), [("gpkg", CRS), ("geojson", "EPSG:4326"), ("shp", "EPSG:32633")])
def test_an_area_is_what_its_polygons_hold(tmp_path: Path, ending: str, crs: str) -> None:
    shapes = [square(5.2, 40.3, 20.1, 100), square(40.4, 50.2, 8, 9), square(-400, 0, 20, 20)]
    placed = [shapely.transform(shape, lambda xy: np.stack(reproject(CRS, crs, *xy.T), axis=1)) for shape in shapes]
    path = write_polygons(tmp_path / f"p.{ending}", placed, crs, kind="Polygon", n=[1, 2, 3])
    [each] = find(write(tmp_path / "a.tif", pixels_of(), **GEO))
    found = inputs.area(path, each)
    assert found is not None
    assert found.region == ((5, 49), (40, 90))
    expected = holds(shapes)
    np.testing.assert_array_equal(found.inside((0, HW[0]), (0, HW[1])), expected)
    assert len(found.polygons_N) == 2
    again = pickle.loads(pickle.dumps(found))  # noqa: S301
    np.testing.assert_array_equal(again.inside((20, 45), (30, 60)), expected[20:45, 30:60])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), cut=st.integers(1, 30))
def test_an_area_does_not_depend_on_how_rows_are_cut(tmp_path: Path, seed: int, cut: int) -> None:
    corners = np.random.default_rng(seed).uniform(-30, 120, (4, 3, 2))
    shapes = [shapely.Polygon(at(*map(tuple, three))) for three in corners]
    if not (tmp_path / "a.tif").exists():
        write(tmp_path / "a.tif", pixels_of(), **GEO)
    path = tmp_path / "p.gpkg"
    path.unlink(missing_ok=True)
    write_polygons(path, shapes, kind="Polygon", n=range(4))
    found = inputs.area(path, find(tmp_path / "a.tif")[0])
    expected = holds(shapes)
    if found is None:
        assert not expected.any()
        return
    bands = [found.inside((row, min(row + cut, HW[0])), (0, HW[1])) for row in range(0, HW[0], cut)]
    np.testing.assert_array_equal(np.concatenate(bands), expected)
    rows, cols = found.region
    outside = expected.copy()
    outside[slice(*rows), slice(*cols)] = False
    assert not outside.any()
    assert 0 <= rows[0] < rows[1] <= HW[0]
    assert 0 <= cols[0] < cols[1] <= HW[1]


def test_an_area_of_nothing_is_none_and_a_wrong_one_an_error(tmp_path: Path) -> None:
    [each] = find(write(tmp_path / "a.tif", pixels_of(), **GEO))
    edge = square(-10, 0, 10, 20)  # along the first row, and a triangle whose bounds alone meet the scene
    aside = shapely.Polygon(at((-50, 40), (40, -50), (-50, -50)))
    assert inputs.area(write_polygons(tmp_path / "p.gpkg", [edge, aside], kind="Polygon", n=[1, 2]), each) is None
    empty = write_polygons(tmp_path / "e.gpkg", [], kind="Polygon", n=np.array([], int))
    with pytest.raises(DataError, match=r"e\.gpkg: has no polygons, so nothing would be mapped"):
        inputs.area(empty, each)
    for more, lacks in (({}, "transform"), ({"transform": PLACE}, "CRS")):
        [bare] = find(write(tmp_path / f"{lacks}.tif", pixels_of(), **more))
        with pytest.raises(DataError, match=f"{lacks}.tif: has no .*so the area .*p.gpkg has no place in it"):
            inputs.area(tmp_path / "p.gpkg", bare)
    points = tmp_path / "points.gpkg"
    pyogrio.raw.write(points, shapely.to_wkb(np.array([shapely.Point(0, 0)])), [np.array([1])], ["n"],
                      geometry_type="Point", crs=CRS)
    with pytest.raises(SourceError, match="holds geometry of type Point"):
        inputs.area(points, each)
