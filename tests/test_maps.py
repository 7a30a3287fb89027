"""Maps are whole or absent, and other programs can read them."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from swath.errors import DataError
from swath.maps import quicklook, write_map

NAMES = ("water", "land (unpaved area)", "road")
COLOURS = ((0, 120, 200), (130, 90, 60), (200, 200, 200))
SHAPE = (1300, 700)
WKT = rasterio.CRS.from_epsg(32640).to_wkt()
TRANSFORM = (0.5, 0.0, 325000.0, 0.0, -0.5, 2770000.0)


@pytest.fixture(name="classes_HW")
def some_classes():
    """Blocks of classes with noise, and a corner without data."""
    blocks = np.random.default_rng(0).integers(0, 3, (SHAPE[0] // 50 + 1, SHAPE[1] // 50 + 1), np.uint8)
    classes = np.kron(blocks, np.ones((50, 50), np.uint8))[:SHAPE[0], :SHAPE[1]]
    classes[:200, :100] = 255
    return classes


def pieces(classes_HW, seed=1, top=0):
    """Rows in pieces of arbitrary heights."""
    rng, row = np.random.default_rng(seed), 0
    while row < len(classes_HW):
        height = int(rng.integers(1, 900))
        yield top + row, classes_HW[row:row + height]
        row += height


def write(path, rows, **change):
    settings = {"shape": SHAPE, "crs": WKT, "transform": TRANSFORM, "names": NAMES, "colours": COLOURS} | change
    write_map(path, rows, **settings)


def test_a_map_is_a_georeferenced_cog_with_colours_and_names(tmp_path, classes_HW):
    path = tmp_path / "new" / "map.tif"
    write(path, pieces(classes_HW), tags={"RUN": "abc"})
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(1), classes_HW)
        assert raster.crs == rasterio.CRS.from_epsg(32640)
        assert tuple(raster.transform)[:6] == TRANSFORM
        assert raster.nodata == 255
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert raster.block_shapes == [(512, 512)]
        assert raster.overviews(1) == [2, 4]
        assert json.loads(raster.tags()["CLASSES"]) == list(NAMES)
        assert raster.tags()["RUN"] == "abc"
        assert raster.descriptions == ("class",)
        assert raster.colorinterp == (ColorInterp.palette,)
        palette = raster.colormap(1)
        assert [palette[k] for k in range(3)] == [(*colour, 255) for colour in COLOURS]
        assert palette[255][3] == 0, "nodata is transparent"
        assert set(np.unique(raster.read(1, out_shape=(325, 175)))) <= {0, 1, 2, 255}, "overviews invent no class"
    assert [p.name for p in path.parent.iterdir()] == ["map.tif"]


def test_overviews_hold_the_most_frequent_class(tmp_path):
    classes = np.tile(np.array([[2, 1], [1, 1]], np.uint8), (600, 600))
    write(tmp_path / "map.tif", [(0, classes)], shape=(1200, 1200))
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as raster:
        assert raster.shape == (600, 600)
        assert (raster.read(1) == 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (513, 7), (512, 512)])
def test_an_image_without_crs_gives_a_map_without_one_and_no_warning(tmp_path, shape):
    classes = np.random.default_rng(0).integers(0, 3, shape, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(tmp_path / "map.tif", pieces(classes, top=40), shape=shape, crs=None, transform=None)
        quicklook(tmp_path / "map.tif", tmp_path / "map.png")
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        raster = rasterio.open(tmp_path / "map.tif")
    with raster:
        assert raster.crs is None
        np.testing.assert_array_equal(raster.read(1), classes)


def interrupted(classes_HW):
    yield 0, classes_HW[:600]
    raise RuntimeError("the network failed")


@pytest.mark.parametrize(("rows", "error", "said"), [
    (interrupted, RuntimeError, "the network failed"),
    (lambda c: [(0, c[:1299])], DataError, "end after 1299 of 1300"),
    (lambda c: [], DataError, "end after 0 of 1300"),
    (lambda c: [(0, c), (1300, c[:1])], DataError, "more rows than the 1300"),
    (lambda c: [(0, c[:10]), (11, c[11:])], DataError, "expected row 10, got 11"),
    (lambda c: [(0, c[:, 1:])], DataError, "700 wide"),
    (lambda c: [(0, c.astype(np.int64))], DataError, "uint8"),
    (lambda c: [(0, np.full_like(c, 3))], DataError, "value 3 in rows 0 to 1299, but there are 3 classes"),
])
def test_nothing_is_left_of_a_map_that_failed_and_an_earlier_one_stays(tmp_path, classes_HW, rows, error, said):
    path = tmp_path / "map.tif"
    path.write_bytes(b"earlier")
    with pytest.raises(error, match=said):
        write(path, rows(classes_HW))
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]
    assert path.read_bytes() == b"earlier"


@pytest.mark.parametrize(("change", "said"), [
    ({"overwrite": False}, "exists already"),
    ({"nodata": 2}, "nodata 2"),
    ({"colours": COLOURS[:2]}, "2 colours"),
    ({"crs": "nonsense"}, "CRS is not WKT .*nonsense"),
])
def test_what_cannot_be_a_map_is_said_before_any_row_is_asked_for(tmp_path, change, said):
    def never():
        pytest.fail("rows were asked for")
        yield

    path = tmp_path / "map.tif"
    path.write_bytes(b"earlier")
    with pytest.raises(DataError, match=said):
        write(path, never(), **change)


def test_an_existing_map_is_overwritten(tmp_path, classes_HW):
    write(tmp_path / "map.tif", [(0, np.zeros_like(classes_HW))])
    write(tmp_path / "map.tif", [(0, classes_HW)])
    with rasterio.open(tmp_path / "map.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), classes_HW)


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path, classes_HW):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/map\.tif: cannot be written \(.*\); it needs a folder") as caught:
        write(tmp_path / "file" / "map.tif", [(0, classes_HW)])
    assert "\n" not in str(caught.value)


FULL_DISK = """
import os, resource, signal, sys
from pathlib import Path
import numpy as np
from swath.errors import DataError
from swath.maps import write_map

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1]) / "map.tif"
classes = np.random.default_rng(0).integers(0, 3, (1024, 1024), np.uint8)

def write():
    write_map(path, [(0, classes)], shape=classes.shape, crs=None, transform=None, names="abc", colours=[(0, 0, 0)] * 3)

write()
whole = path.stat().st_size
path.unlink()
for room in (whole // 4, whole - 20_000, whole - 1_000, whole - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        write()
    except DataError as error:
        assert "map.tif: cannot be written" in str(error), error
    else:
        raise AssertionError(f"said nothing with room for {room} of {whole} bytes")
    assert os.listdir(path.parent) == [], room
print("fine")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_full_disk_is_an_error_wherever_it_strikes(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stdout + done.stderr


def test_a_quicklook_shows_the_colours_and_a_legend(tmp_path, classes_HW):
    write(tmp_path / "map.tif", [(0, classes_HW)])
    quicklook(tmp_path / "map.tif", tmp_path / "map.png", longest=260)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "map.png") as picture:
            pixels = picture.read()[:3].reshape(3, -1).T
            assert 280 <= picture.height < 320, "260 of the map, and the scale bar"
            assert picture.width > 200, "140 of the map, and the legend"
    for colour in COLOURS:
        assert (pixels == colour).all(axis=1).sum() > 500


@pytest.mark.parametrize("content", [b"no raster", None])
def test_a_quicklook_of_what_is_no_map_names_the_file(tmp_path, content):
    if content:
        (tmp_path / "map.tif").write_bytes(content)
    with pytest.raises(DataError, match=r"map\.tif: "):
        quicklook(tmp_path / "map.tif", tmp_path / "map.png")
    assert not (tmp_path / "map.png").exists()
