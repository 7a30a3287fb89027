"""Maps of other tools as predictions: aligned as brute force says, and nothing taken for another in silence."""

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform as reproject

import patchstore
from patchstore import ClassInfo, MaskCoding, SceneSource, Store
from patchstore.errors import SourceError
from patchstore.sources.class_raster import span
from patchstore.sources.grid import Grid
from patchstore.sources.value_meanings import Header
from support.paths import DATA
from support.rasters import write
from swath import recipes
from swath.errors import ConfigError, DataError
from swath.experiments import ingest
from swath.maps.geotiff import quicklook, write_map
from swath.scoring import external_maps
from swath.scoring.counting import NO_PREDICTION, Region
from swath.scoring.external_files import Finder
from swath.scoring.external_maps import ExternalMaps

CLASSES = (ClassInfo("water", (0, 0, 255)), ClassInfo("land", (200, 100, 0)), ClassInfo("road", (9, 9, 9)))
UTM = "EPSG:32634"
PLACE = Affine(0.5, 0, 500_000, 0, -0.5, 5_800_000)
HW = (70, 90)
pytestmark = [pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")]  # the rasters made here


@pytest.fixture(scope="module", name="scenes")
def some_scenes(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Scenes a and a_b beside each other, far away c, and d without a place."""
    folder = tmp_path_factory.mktemp("scenes")
    uri = patchstore.create(folder / "s.zarr", dtype="uint8", bands=1, classes=CLASSES, chunk=64, shard=64)
    places = {"a": PLACE, "a_b": PLACE @ Affine.translation(HW[1], 0), "c": PLACE @ Affine.translation(5000, 0),
              "d": None}
    for name, place in places.items():
        geo = {} if place is None else {"crs": UTM, "transform": place}
        image = write(folder / f"{name}.tif", np.zeros(HW, np.uint8), **geo)
        patchstore.ingest(uri, SceneSource(name=name, image=image, group=name), MaskCoding(classes=CLASSES))
    return patchstore.open(uri)


def classes_of(seed: int = 0, shape: tuple[int, int] = HW) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, shape, np.uint8)


def region(scene: str, rows: tuple[int, int] = (0, HW[0]), cols: tuple[int, int] = (0, HW[1])) -> Region:
    return Region(scene=scene, rows=rows, cols=cols)


def opened(path: Path, store: Store, names: Sequence[str] = ("a",), **table: str) -> ExternalMaps:
    return ExternalMaps.open(path, store, names, table=table)


def read(maps: ExternalMaps, regions: Sequence[Region]) -> list[np.ndarray]:
    """The classes of regions, checked to come in order and without gaps."""
    out: list[list[np.ndarray]] = [[] for _ in regions]
    last = 0
    for index, row, classes_hW in maps.source(regions):
        assert index >= last
        last = index
        assert row == regions[index].rows[0] + sum(map(len, out[index]))
        assert classes_hW.dtype == np.uint8
        out[index].append(classes_hW)
    found = [np.concatenate(pieces) for pieces in out]
    assert [piece.shape for piece in found] == [region.shape for region in regions]
    return found


def only(path: Path, store: Store, scene: str = "a", **table: str) -> np.ndarray:
    return read(opened(path, store, [scene], **table), [region(scene)])[0]


def nearest(values: np.ndarray, crs: str, place: Affine, scene: patchstore.Scene) -> np.ndarray:
    """What a raster shows at the centre of each pixel of a scene, NO_PREDICTION outside of it: the reference."""
    rows, cols = np.indices(scene.shape) + 0.5
    assert scene.transform is not None
    x, y = Affine(*scene.transform) @ (cols, rows)
    x, y = map(np.asarray, reproject(scene.crs, crs, x.ravel(), y.ravel()))
    col, row = (np.floor(each).astype(int).reshape(scene.shape) for each in ~place @ (x, y))
    inside = (row >= 0) & (row < values.shape[0]) & (col >= 0) & (col < values.shape[1])
    return np.where(inside, values[row.clip(0, values.shape[0] - 1), col.clip(0, values.shape[1] - 1)], NO_PREDICTION)


def test_a_map_of_our_own_comes_back_exactly(tmp_path: Path, store: Store) -> None:
    written: dict[str, np.ndarray] = {}
    for name, scene in store.scenes.items():
        written[name] = np.random.default_rng(len(written)).integers(0, len(store.classes), scene.shape, np.uint8)
        written[name][100:200, :50] = 255
        write_map(tmp_path / f"{name}.tif", [(0, written[name])], shape=scene.shape, crs=scene.crs,
                  transform=scene.transform, names=[c.name for c in store.classes],
                  colours=[c.colour for c in store.classes])
        quicklook(tmp_path / f"{name}.tif", tmp_path / f"{name}.png")
    maps = pickle.loads(pickle.dumps(ExternalMaps.open(tmp_path, store, list(store.scenes), table={})))  # noqa: S301
    regions = [Region(scene=name, rows=rows, cols=cols) for name in store.scenes
               for rows, cols in (((0, 320), (0, 320)), ((64, 320), (128, 192)), ((250, 259), (1, 2)))]
    for there, found in zip(regions, read(maps, regions)):
        np.testing.assert_array_equal(found, written[there.scene][slice(*there.rows), slice(*there.cols)])
    assert maps.notes == ("6 pictures beside a raster of the same name left out",
                          "6 scenes: each from the file of its name, on its grid",
                          "values of 6 maps: by the names in the file")


ELSEWHERE = {"shifted by a pixel": (UTM, PLACE @ Affine.translation(1, 0), HW),
             "shifted by parts of one": (UTM, PLACE @ Affine.translation(-3.3, 7.8), HW),
             "coarser": (UTM, PLACE @ Affine.translation(-4.2, -3.7) @ Affine.scale(3), (30, 40)),
             "finer": (UTM, PLACE @ Affine.translation(10.13, 5.37) @ Affine.scale(0.31), (150, 150)),
             "rotated": (UTM, PLACE @ Affine.translation(40, -20) @ Affine.rotation(33), HW),
             "in degrees": ("EPSG:4326", (7.1e-6, -4.3e-6), (70, 80)),
             "in another zone": ("EPSG:32633", (0.45, -0.47), (90, 110))}


@pytest.mark.parametrize("how", ELSEWHERE)
def test_a_map_on_another_grid_is_aligned_as_brute_force_does(tmp_path: Path, scenes: Store, how: str) -> None:
    crs, place, shape = ELSEWHERE[how]
    if not isinstance(place, Affine):  # the size of its pixels; its corner is near the scene's
        x, y = reproject(UTM, crs, [500_000], [5_800_000])
        place = Affine.translation(x[0], y[0]) @ Affine.scale(*place) @ Affine.translation(-5.03, -7.01)
    values = classes_of(1, shape)
    write(tmp_path / "any.tif", values, crs=crs, transform=place)
    expected = nearest(values, crs, place, scenes.scenes["a"])
    assert (expected != NO_PREDICTION).mean() > 0.2
    assert len(np.unique(expected)) > 2
    maps = opened(tmp_path, scenes)
    np.testing.assert_array_equal(read(maps, [region("a")])[0], expected)
    assert maps.notes[0].startswith(f"a: from {tmp_path / 'any.tif'}, warped to its grid (nearest): the file ")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), strip=st.integers(1, 40))
def test_regions_of_any_cut_are_those_of_the_whole(tmp_path: Path, scenes: Store, data: st.DataObject, strip: int
                                                   ) -> None:
    if not list(tmp_path.iterdir()):
        for tile, (row, col) in enumerate(((-10, -20), (30, 10), (25, 60), (-5, 50))):
            write(tmp_path / f"t{tile}.tif", classes_of(tile, (40, 55)), crs="EPSG:32634",
                  transform=PLACE @ Affine.translation(col + 0.3 * tile, row))
    maps = opened(tmp_path, scenes, ["a", "a_b"])
    whole = dict(zip("ab", read(maps, [region("a"), region("a_b")])))
    regions = [region(data.draw(st.sampled_from(["a", "a_b"])), *(
        tuple(sorted(data.draw(st.lists(st.integers(0, length), min_size=2, max_size=2, unique=True))))
        for length in HW)) for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_maps, "STRIP", strip)
        for there, found in zip(regions, read(maps, regions)):
            np.testing.assert_array_equal(found, whole[there.scene[-1]][slice(*there.rows), slice(*there.cols)])


def test_tiles_fill_gaps_and_disagreements_are_counted(tmp_path: Path, scenes: Store) -> None:
    tiles = {"t1": (0, 0), "t2": (20, 40), "t3": (-30, 80), "far": (0, 4000)}
    expected, differing = np.full(HW, NO_PREDICTION, np.uint8), 0
    for seed, (name, (row, col)) in enumerate(tiles.items()):
        values = classes_of(seed, (50, 60))
        values[10:20, 10:30] = 7
        place = PLACE @ Affine.translation(col, row)
        write(tmp_path / f"{name}.tif", values, crs=UTM, transform=place, nodata=7)
        there = nearest(np.where(values == 7, NO_PREDICTION, values), UTM, place, scenes.scenes["a"])
        differing += int(((expected != NO_PREDICTION) & (there != NO_PREDICTION) & (expected != there)).sum())
        expected = np.where(expected == NO_PREDICTION, there, expected)
    maps = opened(tmp_path, scenes, ["a", "c"])
    assert "no file serves c: all of their pixels are uncovered" in maps.notes
    assert "not used, as no scene of the split needs it: 1 raster (far.tif)" in maps.notes
    assert ("a: from 3 files on its ground (t1.tif, t2.tif, t3.tif), 3 of them warped to its grid (nearest)"
            in maps.notes)
    found, nothing = read(maps, [region("a"), region("c")])
    np.testing.assert_array_equal(found, expected)
    assert (nothing == NO_PREDICTION).all()
    assert differing > 100
    assert maps.notes[-1] == f"a: its files disagree on {differing:,} pixels, which have the class of the first by name"
    read(maps, [region("a")])
    assert f" {differing:,} " in maps.notes[-1], "the same pixels are not counted twice"


@pytest.mark.parametrize(("names", "served"), [
    (["a.tif"], {"a": "a.tif"}),
    (["a_pred.tif", "a_b.pred.tif"], {"a": "a_pred.tif", "a_b": "a_b.pred.tif"}),
    (["a/b.tif", "a.tif"], {"a": "a.tif", "a_b": "b.tif"}),
    (["out/a_b_classes.tif"], {"a": None, "a_b": "a_b_classes.tif"}),
    (["c.tif"], {"a": None, "c": "c.tif"}),
    (["a.tif", "a_confidence.tif"], {"a": "a.tif", "a_b": None}),
])
def test_files_serve_the_scenes_of_their_names(tmp_path: Path, scenes: Store, names: list[str],
                                               served: dict[str, str | None]) -> None:
    """All of them show scene a and the half of a_b: whoever went by ground would take another."""
    for seed, name in enumerate(names):
        place = scenes.scenes["c"].transform if name.startswith("c") else PLACE @ Affine.translation(45, 0)
        write(tmp_path / name, classes_of(seed), crs=UTM, transform=Affine(*place[:6]))
    maps = opened(tmp_path, scenes, list(served))
    for scene, file in served.items():
        from_it = [note for note in maps.notes if note.startswith(f"{scene}: from ")]
        if file is None:
            assert not from_it
            assert any(note.startswith("no file serves") and scene in note for note in maps.notes)
        elif file != f"{scene}.tif" or scene != "c":
            assert file in from_it[0]


def test_tiles_that_begin_with_a_scenes_name_are_its_tiles(tmp_path: Path, scenes: Store) -> None:
    values = classes_of()
    write(tmp_path / "a_0.tif", values[:40], crs=UTM, transform=PLACE)
    write(tmp_path / "a_1.tif", values[40:], crs=UTM, transform=PLACE @ Affine.translation(0, 40))
    np.testing.assert_array_equal(only(tmp_path, scenes), values)


def test_tiles_of_another_date_are_not_taken(tmp_path: Path, scenes: Store) -> None:
    """Those of a_b, and one of no scene's name, show all of scene a; its own show a half."""
    values, other = classes_of(), 2 - classes_of()
    for name, shown in (("a_b_0", other), ("a_b_1", other), ("aa", other), ("a_0", values[:35]), ("a_1", values[:35])):
        write(tmp_path / f"{name}.tif", shown, crs=UTM, transform=PLACE)
    expected = np.concatenate([values[:35], np.full((35, 90), NO_PREDICTION)])
    np.testing.assert_array_equal(only(tmp_path, scenes), expected)
    for path in (*tmp_path.glob("a_[01].tif"), tmp_path / "aa.tif"):
        path.unlink()
    with pytest.raises(DataError, match="2 rasters, none with the name of one of the scenes"):
        opened(tmp_path, scenes)


def test_a_scene_without_a_place_is_found_by_name_and_shape(tmp_path: Path, scenes: Store) -> None:
    values = classes_of()
    write(tmp_path / "d.png", values)
    np.testing.assert_array_equal(only(tmp_path, scenes, "d"), values)
    maps = opened(write(tmp_path / "place" / "a.png", values), scenes)
    np.testing.assert_array_equal(read(maps, [region("a")])[0], values)
    assert maps.notes[0] == "1 scene: each from the file of its name, pixel by pixel, as it has no georeference"
    write(tmp_path / "small" / "d.png", values[1:])
    with pytest.raises(SourceError, match=r"d\.png: is 69 x 90 pixels .* its image d is 70 x 90; it cannot be aligned"):
        opened(tmp_path / "small", scenes, ["d"])
    write(tmp_path / "two" / "d_1.png", values)
    write(tmp_path / "two" / "d_2.png", values)
    with pytest.raises(DataError, match=r"d_1\.png, .*d_2\.png have the name of scene d, but it has no CRS"):
        opened(tmp_path / "two", scenes, ["d"])
    for name in ("a_pred.png", "a_prob.png"):
        write(tmp_path / "bare" / name, values)
    with pytest.raises(DataError, match=r"a_pred\.png, .*a_prob\.png have the name of scene a, but have no georef"):
        opened(tmp_path / "bare", scenes)
    write(tmp_path / "bare" / "a_0.tif", values, crs=UTM, transform=PLACE)  # now there is a tile; the others are named
    assert ("not used, as no scene of the split needs it: 2 rasters (a_pred.png, a_prob.png)"
            in opened(tmp_path / "bare", scenes).notes)
    with pytest.raises(DataError, match=r"1 raster, none with the name of one of the scenes \(d\)"):
        opened(write(tmp_path / "other" / "x.png", values), scenes, ["d"])


def test_maps_of_scenes_outside_the_split_are_not_spoken_of(tmp_path: Path, scenes: Store) -> None:
    for name in ("a", "a_b", "c_pred", "sketch"):
        scene = scenes.scenes[name.removesuffix("_pred").replace("sketch", "c")]
        assert scene.transform is not None
        write(tmp_path / f"{name}.tif", classes_of(), crs=UTM, transform=Affine(*scene.transform))
    (note,) = (note for note in opened(tmp_path, scenes).notes if note.startswith("not used"))
    assert note.endswith("1 raster (sketch.tif)")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from([UTM, "EPSG:32633", "EPSG:4326"]), st.floats(-200, 200),
                          st.floats(-200, 200), st.floats(0, 360), st.integers(1, 80)), min_size=1, max_size=6))
def test_a_search_by_bounds_finds_what_reading_all_files_finds(
        scenes: Store, files: list[tuple[str, float, float, float, int]]) -> None:
    scene = scenes.scenes["a"]
    grid = Grid.described("a", scene.shape, scene.crs, scene.transform)
    headers = {}
    for number, (crs, row, col, angle, side) in enumerate(files):
        x, y = reproject(UTM, crs, [500_000 + col / 2], [5_800_000 - row / 2])
        size = 5e-6 if crs == "EPSG:4326" else 0.5
        place = Affine.translation(x[0], y[0]) @ Affine.rotation(angle) @ Affine.scale(size, -size)
        there = Grid(path=Path(f"f{number}.tif"), shape=(side, side), crs=CRS.from_string(crs), transform=place)
        headers[there.path] = Header(grid=there, dtypes=("uint8",), nodata=None, names={}, palette={})
    found = Finder(Path(), scenes, headers).of("a", grid)
    near = [header.path for header, _ in found]
    assert near == sorted(near)
    for path, header in headers.items():
        assert path in near or not overlaps(header.grid, scene)
        assert path not in near or span(header.grid, grid) is not None


def overlaps(grid: Grid, scene: patchstore.Scene) -> bool:
    """Whether the centre of a pixel of the scene lies in a file."""
    assert grid.crs is not None
    assert grid.transform is not None
    return bool((nearest(np.zeros(grid.shape, np.uint8), grid.crs, grid.transform, scene) == 0).any())


def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, scenes: Store) -> None:
    path = write(tmp_path / "a.tif", classes_of(), **GEO)
    every = {"0": "water", "1": "land", "2": "road"}
    np.testing.assert_array_equal(only(path, scenes, **every, **{"01": "land"}), classes_of())
    with pytest.raises(SourceError, match=r"a\.tif: 01 stands for its value 1, to which another entry"):
        only(path, scenes, **every, **{"01": "water"})


def test_what_is_no_map_of_a_scene_is_refused(tmp_path: Path, scenes: Store) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        opened(tmp_path / "absent", scenes)
    with pytest.raises(DataError, match="has no rasters"):
        opened(tmp_path, scenes)
    write(tmp_path / "a.tif", classes_of(), crs=UTM, transform=PLACE @ Affine.translation(1000, 0))
    with pytest.raises(DataError, match=r"a\.tif: has the name of scene a, but lies elsewhere"):
        opened(tmp_path, scenes)
    (tmp_path / "b.tif").write_bytes(b"no raster")
    with pytest.raises(SourceError, match=r"b\.tif: cannot be read as a raster"):
        opened(tmp_path, scenes)


GEO = {"crs": UTM, "transform": PLACE}


@pytest.mark.parametrize(("dtype", "nodata"), [
    *((dtype, nodata) for dtype in ("uint8", "int16", "uint16", "int32", "float32", "float64")
      for nodata in (None, 200)),
    ("int16", -9999), ("int32", -9999), ("float32", -3.4028234663852886e38), ("float64", -9999)])
def test_numbers_of_every_type_are_classes(tmp_path: Path, scenes: Store, dtype: str, nodata: float | None) -> None:
    values, expected = classes_of().astype(dtype), classes_of()
    if nodata is not None:
        values[:5], expected[:5] = nodata, NO_PREDICTION
    if dtype.startswith("f"):
        values[6, :9], expected[6, :9] = np.nan, NO_PREDICTION
    path = write(tmp_path / "a.tif", values, nodata=nodata, **GEO)
    np.testing.assert_array_equal(only(path, scenes), expected)
    assert opened(path, scenes).notes[-1] == ("values of 1 map: taken for class indices, as the file names no classes "
                                              "(0 water, 1 land, 2 road)")


@pytest.mark.parametrize("layout", ["palette", "bands", "alpha"])
def test_colours_of_the_classes_are_classes(tmp_path: Path, scenes: Store, layout: str) -> None:
    values, colours = classes_of(), np.array([info.colour for info in CLASSES], np.uint8)
    expected = values.copy()
    if layout == "palette":  # in an order of its own
        palette = {0: (1, 2, 3), 5: CLASSES[0].colour, 4: CLASSES[1].colour, 7: CLASSES[2].colour}
        path = write(tmp_path / "a.tif", np.array([5, 4, 7], np.uint8)[values], palette=palette, **GEO)
    else:
        bands = np.moveaxis(colours[values], 2, 0)
        if layout == "alpha":
            opacity = np.full(HW, 255, np.uint8)
            opacity[:9], expected[:9] = 0, NO_PREDICTION
            bands = np.concatenate([bands, opacity[None]])
        path = write(tmp_path / "a.png", bands)
    np.testing.assert_array_equal(only(path, scenes), expected)
    assert opened(path, scenes).notes[-1] == "values of 1 map: by the classes' colours"


@pytest.mark.parametrize("where", ["tag", "categories", "vrt"])
def test_names_in_the_file_say_what_its_values_are(tmp_path: Path, scenes: Store, where: str) -> None:
    """In another order than the store's, and with one that it has not, which no pixel has either."""
    names = ["other", "road", "water", "land"]
    path = write(tmp_path / "a.tif", np.array([2, 3, 1], np.uint8)[classes_of()], **GEO)
    listed = "".join(f"<Category>{name}</Category>" for name in names)
    if where == "tag":
        with rasterio.open(path, "r+") as file:
            file.update_tags(CLASSES=json.dumps(names))
    elif where == "categories":
        path.with_name("a.tif.aux.xml").write_text(
            f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{listed}</CategoryNames></PAMRasterBand></PAMDataset>')
    else:
        path = vrt(tmp_path / "a.vrt", path, listed)
    np.testing.assert_array_equal(only(path, scenes), classes_of())


def vrt(path: Path, source: Path, categories: str) -> Path:
    place = ", ".join(str(number) for number in PLACE.to_gdal())
    path.write_text(f'<VRTDataset rasterXSize="{HW[1]}" rasterYSize="{HW[0]}"><SRS>{UTM}</SRS>'
                    f'<GeoTransform>{place}</GeoTransform>'
                    f'<VRTRasterBand dataType="Byte" band="1"><CategoryNames>{categories}</CategoryNames>'
                    f'<SimpleSource><SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
                    '</VRTRasterBand></VRTDataset>')
    return path


def test_a_table_says_what_values_names_and_colours_are(tmp_path: Path, scenes: Store) -> None:
    values = classes_of()
    path = write(tmp_path / "a.tif", np.array([11, -3, 40], np.int16)[values], **GEO)
    expected = np.where(values == 2, NO_PREDICTION, np.array([2, 0, 1], np.uint8)[values])
    np.testing.assert_array_equal(only(path, scenes, **{"11": "road", "-3": "water", "40": ""}), expected)
    named = write(tmp_path / "n" / "a.tif", values, **GEO)
    with rasterio.open(named, "r+") as file:
        file.update_tags(CLASSES='["sea", "land", "street"]')
    np.testing.assert_array_equal(only(named, scenes, sea="water", street="road"), values)
    coloured = write(tmp_path / "c" / "a.png", np.array([[9, 0, 1]], np.uint8).T[:, :, None].repeat(HW[0], 1)
                     .repeat(HW[1], 2))
    assert (only(coloured, scenes, **{"#090001": "land"}) == 1).all()
    for table, said in (({"1": "grass"}, r"has no class grass; it has water, land, road"),
                        ({"sea": "water"}, "map-classes: sea is neither a number, nor")):
        with pytest.raises(ConfigError, match=said):
            only(path, scenes, **table)


def test_a_nodata_that_is_a_class_too_is_nothing_with_a_note(tmp_path: Path, scenes: Store) -> None:
    values = classes_of()
    path = write(tmp_path / "a.tif", values, nodata=0, **GEO)
    np.testing.assert_array_equal(only(path, scenes), np.where(values == 0, NO_PREDICTION, values))
    assert opened(path, scenes).notes[-1].startswith("nodata 0 of a map is the value of water too")
    np.testing.assert_array_equal(only(path, scenes, **{"0": "water", "1": "land", "2": "road"}), values)


@pytest.mark.parametrize("warped", [False, True])
@pytest.mark.parametrize("layout", ["mask", "alpha", "colours and alpha"])
def test_what_a_mask_or_opacity_leaves_out_is_nothing(tmp_path: Path, scenes: Store, layout: str, warped: bool) -> None:
    values, real = classes_of(), np.ones(HW, bool)
    real[20:30, 40:] = False
    place = PLACE @ Affine.translation(2 * warped, 0)
    opacity = real[None].astype(np.uint8) * 255
    bands = {"mask": values[None], "alpha": np.concatenate([values[None], opacity])}
    bands["colours and alpha"] = np.concatenate(
        [np.moveaxis(np.array([info.colour for info in CLASSES], np.uint8)[values], 2, 0), opacity])
    more = {"mask": {}, "alpha": {"alpha": "YES"}, "colours and alpha": {"alpha": "YES", "photometric": "RGB"}}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write(tmp_path / "a.tif", bands[layout], crs=UTM, transform=place, **more[layout])
        if layout == "mask":
            with rasterio.open(path, "r+") as file:
                file.write_mask(real)
    expected = nearest(np.where(real, values, NO_PREDICTION), UTM, place, scenes.scenes["a"])
    np.testing.assert_array_equal(only(path, scenes), expected)


def strange(path: Path, kind: str) -> Path:
    values = classes_of()
    if kind == "value":
        values[40, 3:5] = 17, 9
        return write(path, values, **GEO)
    if kind == "named":
        write(path, values, **GEO)
        with rasterio.open(path, "r+") as file:
            file.update_tags(CLASSES='["water", "lawn", "road"]')
        return path
    if kind == "palette":
        return write(path, values, palette={0: (0, 0, 255), 1: (1, 2, 3), 2: (9, 9, 9)}, **GEO)
    if kind == "colour":
        return write(path, np.stack([values, values, values + 5]), **GEO)
    if kind == "scores":
        return write(path, values + np.float32(0.25), **GEO)
    if kind == "two bands":
        return write(path, np.stack([values, values]), photometric="minisblack", alpha="NO", **GEO)
    if kind == "complex":
        return write(path, values.astype(np.complex64), **GEO)
    write(path, values, **GEO)
    with rasterio.open(path, "r+") as file:
        file.update_tags(CLASSES='["sea", "soil"]' if kind == "names" else "water, land")
    return path


@pytest.mark.parametrize(("kind", "said"), [
    ("value", r"9, 17 in scene a stands for no class \(water, land, road\); say what each value is: "
              "--map-classes '9=CLASS' "),
    ("named", r"1 \(lawn\) in scene a"),
    ("palette", r"1 \(#010203\) in scene a"),
    ("colour", r"#000005, #010106, #020207 in scene .* --map-classes '#000005=CLASS'"),
    ("scores", r"has the value 0\.25, but a map holds the numbers of classes"),
    ("two bands", r"has 2 \(uint8, uint8\); choose the one"),
    ("complex", "is of complex64"),
    ("names", r"its names \(sea, soil\) are none of the classes \(water, land, road\); say what its values are"),
    ("tag", "its tag CLASSES must be a JSON list of names, got 'water, land'"),
])
def test_a_value_of_no_known_meaning_is_one_clear_line(tmp_path: Path, scenes: Store, kind: str, said: str) -> None:
    path = strange(tmp_path / "a.tif", kind)
    with pytest.raises(SourceError, match=said) as caught:
        only(path, scenes)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_damaged_map_names_its_file(tmp_path: Path, scenes: Store) -> None:
    path = write(tmp_path / "a.tif", classes_of(), compress="deflate", blockysize=8, **GEO)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(SourceError, match=r"a\.tif: cannot be read as a raster"):
        only(path, scenes)


def test_a_map_of_the_whole_world_serves_a_scene(tmp_path: Path, scenes: Store) -> None:
    """Most of its outline has no place in the scene's projection."""
    values = classes_of(0, (1800, 3600))
    place = Affine(0.1, 0, -180, 0, -0.1, 90)
    path = write(tmp_path / "world.tif", values, crs="EPSG:4326", transform=place)
    np.testing.assert_array_equal(only(path, scenes), nearest(values, "EPSG:4326", place, scenes.scenes["a"]))
    assert CRS.from_string(UTM) == CRS.from_wkt(scenes.scenes["a"].crs)


@pytest.mark.skipif(not (DATA / "dubai").is_dir(), reason=f"needs the Dubai set in {DATA}")
def test_real_masks_are_their_own_scenes_maps(tmp_path: Path) -> None:
    """Palettes of Tile 2, whose order differs from file to file, and colours of Tile 1."""
    data = recipes.dubai_unet().data
    classes = ingest.class_infos(data)
    coding = MaskCoding(kind="colour", classes=tuple(classes), ignored=("#000000",))
    uri = patchstore.create(tmp_path / "s.zarr", dtype="uint8", bands=3, classes=classes)
    names = [f"{tile}_{part:03}" for tile in (1, 2) for part in (1, 2)]
    for name in names:
        folder = DATA / "dubai" / f"Tile {name[0]}"
        mask = folder / "masks" / f"image_part_{name[2:]}.png"
        image = folder / "images" / f"image_part_{name[2:]}.jpg"
        patchstore.ingest(uri, SceneSource(name=name, image=image, mask=mask, group=name), coding)
        (tmp_path / "maps").mkdir(exist_ok=True)
        shutil.copy(mask, tmp_path / "maps" / f"{name}_pred.png")
    store = patchstore.open(uri)
    regions = [Region(scene=name, rows=(0, scene.shape[0]), cols=(0, scene.shape[1]))
               for name, scene in store.scenes.items()]
    found = read(ExternalMaps.open(tmp_path / "maps", store, names, table={"#000000": ""}), regions)
    for there, classes_HW in zip(regions, found):
        labels_HW = store.region(there.scene, "mask", there.rows, there.cols)
        np.testing.assert_array_equal(classes_HW, np.where(labels_HW == store.ignore, NO_PREDICTION, labels_HW))
        assert len(np.unique(classes_HW)) > 2
