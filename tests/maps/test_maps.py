"""Maps are whole or absent, and other programs can read them."""

import json
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from matplotlib.figure import Figure
from rasterio.enums import ColorInterp
from rio_cogeo.cogeo import cog_validate

from patchstore.errors import OutputError
from patchstore.exports.cog import check_room, room_needed
from swath.errors import DataError
from swath.maps.geotiff import quicklook, round_length, write_map, write_probabilities

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
    assert cog_validate(path, strict=True) == (True, [], [])
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
def test_an_image_without_crs_gives_a_map_without_one(tmp_path, shape):
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


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_shares_are_a_cog_of_bytes_that_say_their_scale(tmp_path, bands):
    shares_CHW = np.random.default_rng(0).random((bands, *SHAPE), np.float32)
    bytes_CHW = np.rint(254 * shares_CHW).astype(np.uint8)
    bytes_CHW[:, :200, :101] = 255
    names = [f"class {k}" for k in range(bands)]
    cut = [(40, bytes_CHW[:, :700]), (740, bytes_CHW[:, 700:])]
    write_probabilities(tmp_path / "shares.tif", cut, shape=SHAPE, crs=WKT, transform=TRANSFORM, names=names,
                 tags={"RUN": "a"})
    assert cog_validate(tmp_path / "shares.tif", strict=True) == (True, [], [])
    with rasterio.open(tmp_path / "shares.tif") as raster:
        np.testing.assert_array_equal(raster.read(), bytes_CHW)
        assert raster.scales == (1 / 254,) * bands
        assert raster.nodatavals == (255,) * bands
        assert raster.descriptions == tuple(names)
        assert not {ColorInterp.red, ColorInterp.alpha, ColorInterp.palette} & set(raster.colorinterp)
        assert tuple(raster.transform)[:6] == TRANSFORM
        assert raster.tags()["RUN"] == "a"
        there = bytes_CHW != 255
        assert abs((raster.read() * raster.scales[0] - shares_CHW)[there]).max() <= 1 / 508 + 1e-6
    with rasterio.open(tmp_path / "shares.tif", overview_level=0) as raster:
        halves = bytes_CHW.reshape(bands, SHAPE[0] // 2, 2, SHAPE[1] // 2, 2).astype(np.float64)
        halves[halves == 255] = np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing
            means = np.nan_to_num(np.nanmean(halves, axis=(2, 4)), nan=255)
        assert abs(raster.read() - means).max() <= 0.5, "no data is not mixed in"


def test_shares_that_are_there_already_stay(tmp_path):
    (tmp_path / "shares.tif").write_bytes(b"earlier")
    with pytest.raises(DataError, match=r"shares\.tif: exists already"):
        write_probabilities(tmp_path / "shares.tif", [], shape=SHAPE, crs=None, transform=None, names="a",
                            overwrite=False)
    assert (tmp_path / "shares.tif").read_bytes() == b"earlier"


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
def test_a_failed_map_leaves_nothing_and_an_earlier_one_stays(tmp_path, classes_HW, rows, error, said):
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
def test_an_impossible_map_is_refused_before_any_row_is_read(tmp_path, change, said):
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
from patchstore.exports import room_needed
from swath.errors import DataError
from swath.maps.geotiff import write_map

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


@pytest.mark.parametrize("bands", [1, 5])
def test_room_on_the_disk_is_asked_for_before_any_row_is(tmp_path, monkeypatch, bands):
    def never():
        pytest.fail("rows were asked for")
        yield

    whole = 4096 * 4096 * bands * 8 // 3
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=int(whole * 1.01)))
    check_room(tmp_path / "new" / "map.tif", (4096, 4096), bands=bands)
    free = int(whole * 0.98)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    said = rf"map\.tif: writing it may need [\d,]+ bytes of disk, and {free:,} are free in {tmp_path}; free some"
    with pytest.raises(OutputError, match=said):
        check_room(tmp_path / "new" / "map.tif", (4096, 4096), bands=bands)
    with pytest.raises(DataError, match=said):
        write_probabilities(tmp_path / "new" / "map.tif", never(), shape=(4096, 4096), crs=None, transform=None,
                     names=["share"] * bands)
    assert list(tmp_path.iterdir()) == []


def test_room_that_is_asked_for_suffices_for_noise(tmp_path, monkeypatch):
    taken, replace = [], os.replace

    def look(source, target):
        taken.append(sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))
        replace(source, target)

    monkeypatch.setattr("os.replace", look)
    noise_HW = np.random.default_rng(0).integers(0, 255, (1024, 1024), np.uint8)
    write(tmp_path / "map.tif", [(0, noise_HW)], shape=(1024, 1024), names=["a"] * 255, colours=[(0, 0, 0)] * 255)
    need = room_needed((1024, 1024))
    assert 0.8 * need < taken[0] < need


@pytest.mark.parametrize(("most", "length"), [(1, 1), (1.99, 1), (2, 2), (4.9, 2), (99, 50), (100, 100), (0.07, 0.05),
                                              (3e5, 2e5)])
def test_a_scale_bar_has_a_round_length(most, length):
    assert round_length(most) == pytest.approx(length)


@pytest.mark.parametrize(("change", "text", "dots"), [
    ({}, "50 m", 100),
    ({"transform": (15.0, 0.0, 325000.0, 0.0, -15.0, 2770000.0)}, "2 km", 2000 / 15),
    ({"crs": rasterio.CRS.from_epsg(4326).to_wkt()}, "100 px", 100),
    ({"crs": None, "transform": None}, "100 px", 100),
])
def test_a_quicklook_has_a_scale_bar_of_true_metres_or_of_pixels(tmp_path, monkeypatch, change, text, dots):
    classes_HW = np.zeros((500, 480), np.uint8)
    drawn = {}
    savefig = Figure.savefig

    def look(figure, *args, **settings):
        width = figure.get_figwidth() * figure.dpi
        drawn.update(text=figure.texts[0].get_text(),
                     dots=sum(bar.get_width() for bar in figure.artists) * width)
        savefig(figure, *args, **settings)

    monkeypatch.setattr(Figure, "savefig", look)
    write(tmp_path / "map.tif", [(0, classes_HW)], shape=classes_HW.shape, **change)
    quicklook(tmp_path / "map.tif", tmp_path / "map.png")
    assert drawn["text"] == text
    assert drawn["dots"] == pytest.approx(dots)


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


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path):
    classes = np.zeros((20, 30), np.uint8)
    write_map(tmp_path / "map.tif", [(0, classes)], shape=(20, 30), crs=None, transform=None,
              names=[r"$\foo$", "a_b$"], colours=[(0, 0, 0), (9, 9, 9)])
    quicklook(tmp_path / "map.tif", tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 0
