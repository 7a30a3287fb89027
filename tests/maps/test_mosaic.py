"""A VRT over maps shows each map's pixels where it lies, and nothing elsewhere."""

import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from swath.errors import DataError
from swath.maps.geotiff import inspect_map, quicklook, write_map
from swath.maps.mosaic import write_vrt
from swath.maps.polygons import write_polygons

NAMES = ("water & sea", "<land>", "road")
COLOURS = ((0, 120, 200), (130, 90, 60), (200, 200, 200))
UTM = rasterio.CRS.from_epsg(32640).to_wkt()
LEFT, TOP = 325000.0, 2770000.0


def noise(shape, seed=0):
    return np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), shape)


def some_map(path, classes_HW, left=0.0, down=0.0, pixel=0.5, **change):
    """A map whose corner lies so many units right and down of LEFT, TOP."""
    settings = {"crs": UTM, "transform": (pixel, 0.0, LEFT + left, 0.0, -pixel, TOP - down), "names": NAMES,
                "colours": COLOURS} | change
    write_map(path, [(0, classes_HW)], shape=classes_HW.shape, **settings)
    return path


def pixels(path):
    with rasterio.open(path) as raster:
        return raster.read(1)


places = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 30), st.integers(0, 30),
                   st.sampled_from([1, 2, 3]))


@given(maps=st.lists(places, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_its_pixels_are_the_maps_the_later_on_top(tmp_path_factory, maps):
    folder = tmp_path_factory.getbasetemp()
    finest = min(pixel for *_, pixel in maps)
    maps = [(*place, finest if pixel % finest else pixel) for *place, pixel in maps]  # pixels that lie on one grid
    expected = np.full((200, 200), 255, np.uint8)
    paths = []
    for n, (rows, cols, row, col, pixel) in enumerate(maps):
        classes_HW = noise((rows, cols), seed=n)
        paths.append(some_map(folder / f"{n}.tif", classes_HW, col * finest, row * finest, pixel))
        drawn = np.kron(classes_HW, np.ones((pixel // finest, pixel // finest), np.uint8))
        under = expected[row:row + drawn.shape[0], col:col + drawn.shape[1]]
        under[drawn != 255] = drawn[drawn != 255]
    assert write_vrt(paths, folder / "all.vrt", overwrite=True) == ()
    with rasterio.open(folder / "all.vrt") as raster:
        got, transform = raster.read(1), raster.transform
    row, col = min(m[2] for m in maps), min(m[3] for m in maps)
    assert tuple(transform)[:6] == (finest, 0, LEFT + col * finest, 0, -finest, TOP - row * finest)
    np.testing.assert_array_equal(got, expected[row:row + got.shape[0], col:col + got.shape[1]])
    got_until = (row + got.shape[0], col + got.shape[1])
    assert got_until == tuple(max(m[k + 2] + m[k] * m[4] // finest for m in maps) for k in (0, 1))


def test_it_is_a_map_itself_and_can_be_moved_with_its_folder(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    paths = [some_map(before / "parts" / f"{n}.tif", noise((20, 30), n), left=15.0 * n) for n in range(3)]
    write_vrt(paths, before / "all.vrt")
    shutil.move(before, after)
    info = inspect_map(after / "all.vrt")
    assert (info.shape, info.names, info.colours, info.nodata) == ((20, 90), NAMES, COLOURS, 255)
    assert rasterio.CRS.from_wkt(info.crs) == rasterio.CRS.from_epsg(32640)
    np.testing.assert_array_equal(pixels(after / "all.vrt"), np.hstack([noise((20, 30), n) for n in range(3)]))
    with rasterio.open(after / "all.vrt") as raster:
        assert raster.colormap(1)[255][3] == 0, "no data is transparent"
    categories = ElementTree.parse(after / "all.vrt").findall("VRTRasterBand/CategoryNames/Category")
    assert [category.text for category in categories] == list(NAMES), "as gdalinfo shows them"
    quicklook(after / "all.vrt", after / "all.png")
    assert write_polygons(after / "all.vrt", after / "all.parquet") > 0


def test_maps_that_cannot_lie_in_it_are_named(tmp_path):
    square = noise((4, 4))
    other = rasterio.CRS.from_epsg(32641).to_wkt()
    paths = [some_map(tmp_path / "zone.tif", square, crs=other),
             some_map(tmp_path / "first.tif", square),
             some_map(tmp_path / "lost.tif", square, crs=None, transform=None),
             some_map(tmp_path / "turned.tif", square, transform=(0.5, 0.1, LEFT, 0.0, -0.5, TOP)),
             some_map(tmp_path / "south_up.tif", square, transform=(0.5, 0.0, LEFT, 0.0, 0.5, TOP)),
             some_map(tmp_path / "renamed.tif", square, names=("a", "b", "c")),
             some_map(tmp_path / "second.tif", square, left=2.0)]
    notes = write_vrt(paths, tmp_path / "all.vrt")
    assert sorted(note.removeprefix(str(tmp_path)) for note in notes) == [
        "/lost.tif: has no CRS; it is not in all.vrt",
        "/renamed.tif: has other classes, colours or nodata than first.tif; it is not in all.vrt",
        "/south_up.tif: is turned against the axes of its CRS; warp it north up (gdalwarp); it is not in all.vrt",
        "/turned.tif: is turned against the axes of its CRS; warp it north up (gdalwarp); it is not in all.vrt",
        "/zone.tif: has another CRS than first.tif; it is not in all.vrt"]
    np.testing.assert_array_equal(pixels(tmp_path / "all.vrt"), np.hstack([square, square]))


@pytest.mark.parametrize(("names", "out", "said"), [
    (["map.tif", "text.tif"], "new.vrt", r"text\.tif: cannot be read as a map"),
    (["map.tif"], "old.vrt", r"old\.vrt: exists already; give another name, or overwrite it"),
    (["map.tif"], "map.tif/new.vrt", r"new\.vrt: cannot be written"),
    (["lost.tif"], "new.vrt", r"new\.vrt: no map to lay into it; .*lost\.tif: has no CRS"),
    ([], "new.vrt", r"new\.vrt: no map to lay into it; none was given"),
    (["map.tif", "old.vrt"], "old.vrt", r"old\.vrt: would be laid into itself"),
    (["map.tif", "far.tif"], "new.vrt", r"new\.vrt: .* pixels, and a raster has 2,147,483,647 a side at most"),
])
def test_what_cannot_be_is_one_clear_line_and_leaves_nothing(tmp_path, names, out, said):
    some_map(tmp_path / "map.tif", noise((4, 4)))
    some_map(tmp_path / "far.tif", noise((4, 4)), left=2e9)
    some_map(tmp_path / "lost.tif", noise((4, 4)), crs=None, transform=None)
    (tmp_path / "text.tif").write_text("text")
    (tmp_path / "old.vrt").write_text("earlier")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=said) as caught:
        write_vrt([tmp_path / name for name in names], tmp_path / out)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "old.vrt").read_text() == "earlier"
