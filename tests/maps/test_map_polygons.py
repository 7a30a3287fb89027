"""Polygons of a map are the map: burnt again they give every pixel, and neighbours keep one border."""

import subprocess
import sys

import cv2
import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rasterio.features import rasterize

from swath.errors import DataError
from swath.maps.geotiff import write_map
from swath.maps.polygons import write_polygons

NAMES = ("water", "land (unpaved area)", "road")
COLOURS = ((0, 120, 200), (130, 90, 60), (200, 200, 200))
UTM = rasterio.CRS.from_epsg(32640).to_wkt()
NORTH_UP = (0.5, 0.0, 325000.0, 0.0, -0.5, 2770000.0)
TURNED = (0.3, 0.1, 325000.7, 0.2, -0.6, 2770000.1)

some_maps = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12),
                   elements=st.sampled_from([0, 1, 2, 255]), fill=st.nothing())


def polygons_of(folder, classes_HW, transform=NORTH_UP, crs=UTM, **settings):
    """The polygons of a map that is written for it."""
    write_map(folder / "map.tif", [(0, classes_HW)], shape=classes_HW.shape, crs=crs, transform=transform, names=NAMES,
              colours=COLOURS)
    count = write_polygons(folder / "map.tif", folder / "map.parquet", overwrite=True, **settings)
    table = geopandas.read_parquet(folder / "map.parquet")
    assert len(table) == count
    return table


def burnt(table, shape, transform):
    return rasterize(zip(table.geometry, table["class"]), out_shape=shape, fill=255, dtype="uint8",
                     transform=rasterio.Affine(*transform or (1, 0, 0, 0, 1, 0)))


@given(classes_HW=some_maps, transform=st.sampled_from([NORTH_UP, TURNED, None]))
@settings(max_examples=60, deadline=None)
def test_burnt_again_they_are_the_map(tmp_path_factory, classes_HW, transform):
    table = polygons_of(tmp_path_factory.getbasetemp(), classes_HW, transform)
    np.testing.assert_array_equal(burnt(table, classes_HW.shape, transform), classes_HW)
    assert table.geometry.is_valid.all()
    for value, name in enumerate(NAMES):
        of_class = table[table["class"] == value]
        parts = cv2.connectedComponents((classes_HW == value).astype(np.uint8), connectivity=4)[0] - 1
        assert (len(of_class), of_class["pixels"].sum()) == (parts, (classes_HW == value).sum())
        assert (of_class["name"] == name).all()


@given(classes_HW=some_maps, transform=st.sampled_from([NORTH_UP, TURNED]), simplify_px=st.sampled_from([0.5, 1.5, 9]))
@settings(max_examples=60, deadline=None)
def test_simplified_neighbours_keep_one_border_and_the_outline(tmp_path_factory, classes_HW, transform,
                                                               simplify_px):
    table = polygons_of(tmp_path_factory.getbasetemp(), classes_HW, transform, simplify_px=simplify_px)
    shapes_P = np.array(table.geometry)
    assert shapely.is_valid(shapes_P).all()
    assert not shapely.is_empty(shapes_P).any()
    assert shapely.coverage_is_valid(shapes_P), "neighbours have the same vertices, and do not overlap"
    a, b, _, d, e, _ = transform
    covered = (classes_HW != 255).sum() * abs(a * e - b * d)
    assert shapely.area(shapes_P).sum() == pytest.approx(covered, rel=1e-6)
    assert shapely.union_all(shapes_P).area == pytest.approx(covered, rel=1e-6)
    assert table["pixels"].sum() == (classes_HW != 255).sum(), "pixels are the map's own"


def test_simplifying_leaves_out_the_steps_of_a_slope(tmp_path):
    classes_HW = np.tri(60, dtype=np.uint8)
    steps = polygons_of(tmp_path, classes_HW)
    slope = polygons_of(tmp_path, classes_HW, simplify_px=1.5)
    assert shapely.get_num_coordinates(np.array(steps.geometry)).min() > 100
    assert shapely.get_num_coordinates(np.array(slope.geometry)).max() < 20
    assert slope["area_m2"].tolist() == steps["area_m2"].tolist() == (steps["pixels"] * 0.25).tolist()


@pytest.mark.parametrize(("epsg", "transform"), [
    (4326, (1e-4, 0, 55.0, 0, -2e-4, 60.0)),
    (4326, (1e-2, 0, 179.9, 0, -1e-2, -40.0)),      # across the date line
    (4807, (1e-3, 0, 2.0, 0, -1e-3, 50.0)),         # in grads, from Paris
    (3857, (10.0, 0, 6e6, 0, -10.0, 8e6)),
    (4326, (1e-3, 3e-4, 55.0, 4e-4, -1e-3, 25.0)),  # turned
])
def test_an_area_on_the_ellipsoid_is_the_geodesic_one(tmp_path, epsg, transform):
    crs = rasterio.CRS.from_epsg(epsg)
    table = polygons_of(tmp_path, np.kron(np.array([[0, 1], [2, 255], [1, 0]], np.uint8), np.ones((9, 20), np.uint8)),
                        transform, crs.to_wkt())
    known = pyproj.CRS.from_epsg(epsg)
    to_degrees = pyproj.Transformer.from_crs(known, known.geodetic_crs, always_xy=True)
    unit = np.degrees(known.geodetic_crs.axis_info[0].unit_conversion_factor)
    for shape, area_m2 in zip(table.geometry, table["area_m2"]):
        # sides in many pieces: a geodesic leaves the parallel between its ends
        x_V, y_V = shapely.get_coordinates(shapely.segmentize(shape, transform[0] / 20)).T
        lon_V, lat_V = np.array(to_degrees.transform(x_V, y_V)) * unit
        exact = known.get_geod().polygon_area_perimeter(lon_V, lat_V)[0]
        assert area_m2 == pytest.approx(abs(exact), rel=1e-6)


@pytest.mark.parametrize(("crs", "pixel_m2"), [
    (UTM, 0.25),
    (rasterio.CRS.from_epsg(2263).to_wkt(), 0.25 * (1200 / 3937) ** 2),  # feet
    (rasterio.CRS.from_string("+proj=tmerc +lat_0=12.34 +lon_0=55.5 +k=1 +ellps=GRS80 +units=m").to_wkt(), 0.25),
    ('LOCAL_CS["site",UNIT["metre",1]]', np.nan),
    (None, np.nan),
])
def test_an_area_is_that_of_its_pixels_where_metres_are_true(tmp_path, crs, pixel_m2):
    table = polygons_of(tmp_path, np.array([[0, 0, 1], [0, 255, 1]], np.uint8), crs=crs)
    np.testing.assert_allclose(table["area_m2"], [3 * pixel_m2, 2 * pixel_m2])
    assert table.columns.tolist() == ["class", "name", "pixels", "area_m2", "geometry"]
    if crs is None:
        assert table.crs is None
    else:
        assert rasterio.CRS.from_wkt(table.crs.to_wkt()) == rasterio.CRS.from_wkt(crs)


def test_a_map_without_transform_has_polygons_in_pixels(tmp_path):
    table = polygons_of(tmp_path, np.array([[0, 1]], np.uint8), None, UTM)
    assert table.crs is None
    assert table.total_bounds.tolist() == [0, 0, 2, 1]
    assert table["area_m2"].isna().all()


@pytest.mark.parametrize("simplify_px", [0, 2])
def test_a_map_of_no_data_has_no_polygon(tmp_path, simplify_px):
    table = polygons_of(tmp_path, np.full((5, 5), 255, np.uint8), simplify_px=simplify_px)
    assert len(table) == 0
    assert table.dtypes.astype(str).tolist()[0:4:2] == ["uint8", "int64"]
    assert table.crs.to_epsg() == 32640


def test_an_earlier_file_stays_until_another_takes_its_place(tmp_path):
    polygons_of(tmp_path, np.zeros((2, 2), np.uint8))
    before = (tmp_path / "map.parquet").read_bytes()
    with pytest.raises(DataError, match=r"map\.parquet: exists already; give another name, or overwrite it"):
        write_polygons(tmp_path / "map.tif", tmp_path / "map.parquet")
    (tmp_path / "other.tif").write_bytes(b"no raster")
    with pytest.raises(DataError, match=r"other\.tif: cannot be read as a map"):
        write_polygons(tmp_path / "other.tif", tmp_path / "map.parquet", overwrite=True)
    assert (tmp_path / "map.parquet").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.parquet", "map.tif", "other.tif"]


@pytest.mark.parametrize(("change", "said"), [
    ({"out_path": "map.tif/a.parquet"}, r"a\.parquet: cannot be written"),
    ({"out_path": "map.tif", "overwrite": True}, r"map\.tif: the polygons would take the place of their map"),
    ({"simplify_px": -1.0}, "simplify_px must not be negative, got -1"),
    ({"map_path": "none.tif"}, r"none\.tif: cannot be read as a map"),
    ({"map_path": "grey.tif"}, r"grey\.tif: not a map of classes"),
])
def test_what_cannot_be_is_one_clear_line(tmp_path, change, said):
    polygons_of(tmp_path, np.zeros((2, 2), np.uint8))
    with rasterio.open(tmp_path / "grey.tif", "w", driver="GTiff", width=2, height=2, count=1, dtype="uint8",
                       crs=UTM, transform=rasterio.Affine(*NORTH_UP)) as raster:
        raster.write(np.zeros((1, 2, 2), np.uint8))
    before = sorted(tmp_path.iterdir())
    paths = {"map_path": "map.tif", "out_path": "new.parquet"} | change
    with pytest.raises(DataError, match=said) as caught:
        write_polygons(**{key: tmp_path / value if "path" in key else value for key, value in paths.items()})
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


FULL_DISK = """
import os, resource, signal, sys
from pathlib import Path
from swath.errors import DataError
from swath.maps.polygons import write_polygons

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
for room in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        write_polygons(folder / "map.tif", folder / "new.parquet")
    except DataError as error:
        assert "new.parquet: cannot be written" in str(error), error
    else:
        raise AssertionError(f"said nothing with room for {room} bytes")
    assert sorted(os.listdir(folder)) == ["map.parquet", "map.tif"], room
print("fine")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_full_disk_is_an_error_wherever_it_strikes(tmp_path):
    polygons_of(tmp_path, np.random.default_rng(0).integers(0, 3, (60, 60), np.uint8))
    whole = (tmp_path / "map.parquet").stat().st_size
    rooms = map(str, (whole // 4, whole - 1_000, whole - 1))
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path, *rooms], capture_output=True, text=True,
                          check=False)
    assert done.stdout.strip() == "fine", done.stdout + done.stderr
