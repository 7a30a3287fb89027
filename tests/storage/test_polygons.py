"""Polygons as labels and as areas of interest, against shapely's answer for every pixel's centre."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.warp import transform as reproject

import patchstore
from patchstore import MaskCoding, SceneReader, SourceError
from patchstore.sources import vector
from support.georeferenced import (
    CLASSES,
    CRS,
    GEO,
    HW,
    INDEX,
    PLACE,
    at,
    ingest,
    labels,
    mask_of,
    pixels_of,
    scene,
    square,
    write_polygons,
)
from support.rasters import write

POLYGONS = MaskCoding(kind="polygons", classes=CLASSES, attribute="kind")
pytestmark = [pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),  # the rasters made here
              pytest.mark.filterwarnings("ignore:'crs' was not provided")]


def holds(shape: shapely.Geometry) -> np.ndarray:
    """Which pixels of a scene have their centre in a shape: the reference of burning."""
    rows, cols = np.indices(HW) + 0.5
    return shapely.contains_xy(shape, *(PLACE @ (cols, rows)))


@pytest.mark.parametrize(("ending", "crs"), [("gpkg", CRS), ("geojson", "EPSG:4326"), ("shp", "EPSG:32633"),
                                             ("fgb", "EPSG:4326"), ("shp", CRS)])
def test_polygons_are_burnt_by_a_field(tmp_path: Path, ending: str, crs: str) -> None:
    ring = square(5.2, 5.2, 50.1, 60.1).difference(square(20.2, 20.2, 10, 10))
    two = shapely.MultiPolygon([square(0, 0, 12.3, 12.3), square(60.3, 70.2, 5, 30)])
    shapes = [ring, two, square(30.2, 2.2, 3, 80), square(-400, -400, 20, 20)]
    placed = shapely.transform(shapes, lambda xy: np.stack(reproject(CRS, crs, *xy.T), axis=1))
    path = write_fields(tmp_path / f"p.{ending}", placed, crs)
    expected = np.full(HW, 255, np.uint8)
    for shape, label in zip(shapes, (1, 2, 0)):
        expected[holds(shape)] = label
    image = write(tmp_path / "a.tif", pixels_of(), **GEO)
    for attribute in ("name", "index"):
        coding = MaskCoding(kind="polygons", classes=CLASSES, attribute=attribute)
        for cut in (10_000, 16):
            found, ignored = labels(scene(image, path), coding, cut)
            np.testing.assert_array_equal(found, expected)
            assert ignored == {"no polygon": int((expected == 255).sum())}
    over, ignored = labels(scene(image, path), MaskCoding(kind="polygons", classes=CLASSES, attribute="name",
                                                          background="road"))
    np.testing.assert_array_equal(over, np.where(expected == 255, 2, expected))
    assert ignored == {}
    assert (ingest(tmp_path, scene(image, path), coding)[1] == expected).all()
    with SceneReader(scene(image, path), coding, 255) as reader:
        parts = {"shp": ["p.shp", "p.cpg", "p.dbf", "p.prj", "p.shx"]}.get(ending, [f"p.{ending}"])
        assert [file.name for file in reader.files()] == ["a.tif", *parts]


def write_fields(path: Path, shapes: Sequence[shapely.Geometry], crs: str) -> Path:
    """Polygons of land, road, water and water, by name and by index; the index as a float, as some tools write it."""
    names = np.array(["land", "road", "water", "water"], object)
    kind = "MultiPolygon" if path.suffix == ".shp" else "Unknown"
    own_order = {"SPATIAL_INDEX": "NO"} if path.suffix == ".fgb" else {}  # with its index the file is sorted by place
    pyogrio.raw.write(path, shapely.to_wkb(np.array(shapes, object)), [names, np.array([1.0, 2, 0, 0])],
                      ["name", "index"], geometry_type=kind, crs=crs, **own_order)
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), cut=st.integers(1, 40), ahead=st.sampled_from([1, 16, 33, 2048]),
       step=st.sampled_from([0.5, 1.0, 1 / 3, 0.01]), crs=st.sampled_from([CRS, "EPSG:4326"]))
def test_burning_does_not_depend_on_how_rows_are_cut(tmp_path: Path, seed: int, cut: int, ahead: int, step: float,
                                                     crs: str) -> None:
    rng = np.random.default_rng(seed)
    places = np.round(rng.uniform(-20, 110, (12, 3, 2)) / step) * step  # edges through pixel centres too
    shapes = [shapely.transform(shapely.Polygon(at(*map(tuple, corners))),
                                lambda xy: np.stack(reproject(CRS, crs, *xy.T), axis=1) if crs != CRS else xy)
              for corners in places]
    image, path = tmp_path / "a.tif", tmp_path / "p.gpkg"
    if not image.exists():
        write(image, pixels_of(), **GEO)
    path.unlink(missing_ok=True)
    write_polygons(path, shapes, crs, kind="Polygon", **{"class": rng.integers(0, 3, 12)})
    coding = MaskCoding(kind="polygons", classes=CLASSES, attribute="class")
    whole, ignored = labels(scene(image, path), coding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector, "_AHEAD", ahead)
        parts, counts = labels(scene(image, path), coding, cut)
    np.testing.assert_array_equal(parts, whole)
    assert counts == ignored


@pytest.mark.parametrize("ending", ["gpkg", "geojson"])
def test_a_file_is_read_once_for_many_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """GeoJSON is parsed as a whole for every reading."""
    shapes = [square(row, 3, 8, 40) for row in range(-5, 75, 10)]
    path = write_polygons(tmp_path / f"p.{ending}", shapes, kind="Polygon", kind_=["land"] * len(shapes))
    source = scene(write(tmp_path / "a.tif", pixels_of(), **GEO), path, area=path)
    coding = MaskCoding(kind="polygons", classes=CLASSES, attribute="kind_")
    expected = labels(source, coding)
    reads, read = list[object](), pyogrio.raw.read
    monkeypatch.setattr(pyogrio.raw, "read", lambda *args, **more: (reads.append(args), read(*args, **more))[1])
    for ahead, times in ((2048, 1), (40, 2)):
        monkeypatch.setattr(vector, "_AHEAD", ahead)
        reads.clear()
        found, ignored = labels(source, coding, 8)
        np.testing.assert_array_equal(found, expected[0])
        assert ignored == expected[1]
        assert len(reads) == 2 * times  # labels and area


def test_overlapping_polygons_keep_their_order_beside_an_index(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    shapes = [square(*rng.uniform(-5, 60, 2), *rng.uniform(3, 40, 2)) for _ in range(300)]
    kinds = rng.integers(0, 3, 300)
    expected = np.zeros(HW, np.uint8)
    for shape, kind in zip(shapes, kinds):
        expected[holds(shape)] = kind
    image = write(tmp_path / "a.tif", pixels_of(), **GEO)
    for ending in ("gpkg", "geojson", "shp"):
        path = write_polygons(tmp_path / f"p.{ending}", shapes, kind="Polygon", kind_=kinds)
        coding = MaskCoding(kind="polygons", classes=CLASSES, attribute="kind_", background="water")
        for cut in (10_000, 7):
            np.testing.assert_array_equal(labels(scene(image, path), coding, cut)[0], expected)


def test_long_edges_are_straight_in_the_crs_of_their_file(tmp_path: Path) -> None:
    """100 km along a parallel, 200 m off the chord between its ends."""
    (x,), (y,) = reproject(CRS, "EPSG:4326", [500_000 + 22.5], [5_800_000 - 17.5])
    belt = shapely.Polygon([(x - 0.7, y), (x + 0.7, y), (x + 0.7, y + 0.1), (x - 0.7, y + 0.1)])
    path = write_polygons(tmp_path / "p.geojson", [belt], "EPSG:4326", kind_=["road"])
    coding = MaskCoding(kind="polygons", classes=CLASSES, attribute="kind_", background="land")
    image = write(tmp_path / "a.tif", pixels_of(), **GEO)
    rows, cols = np.indices(HW) + 0.5
    _, lat = reproject(CRS, "EPSG:4326", *(PLACE @ (cols.ravel(), rows.ravel())))
    expected = np.where(np.array(lat).reshape(HW) > y, 2, 1)
    for cut in (10_000, 3):
        np.testing.assert_array_equal(labels(scene(image, path), coding, cut)[0], expected)


def test_values_of_polygons_without_a_class(tmp_path: Path) -> None:
    shapes = [square(row, 0, 5, 5) for row in range(0, 70, 10)]
    path = write_polygons(tmp_path / "p.gpkg", shapes, kind="Polygon",
                          use=np.array(["land", "2", "lake", "lake", "bog", None, ""], object))
    source = scene(write(tmp_path / "a.tif", pixels_of(), **GEO), path)

    def coding(**more: object) -> MaskCoding:
        return MaskCoding(kind="polygons", classes=CLASSES, attribute="use", **more)  # type: ignore[arg-type]

    with pytest.raises(SourceError, match=r"p\.gpkg: values of use .*: 'lake' \(2\), 'bog' \(1\), 'no value' \(1\), "
                                          r"'empty value' \(1\); .*--data\.ignored 'lake' 'bog' 'no value' "
                                          r"'empty value'.*--data\.stray ignore"):
        labels(source, coding())
    counts = {"no polygon": 70 * 90 - 175, "lake": 50, "bog": 25, "no value": 25, "empty value": 25}
    for chosen in (coding(stray="ignore"), coding(ignored=("lake", "bog", "no value", "empty value"))):
        found, ignored = labels(source, chosen)
        assert ignored == counts
        assert sum(ignored.values()) == (found == 255).sum()
        assert np.bincount(found.ravel(), minlength=3)[:3].tolist() == [0, 25, 25]
    with pytest.raises(SourceError, match="'bog'"):
        labels(source, coding(ignored=("lake", "no value", "empty value")))


def test_polygons_far_larger_than_the_scene(tmp_path: Path) -> None:
    (x,), _ = reproject(CRS, "EPSG:4326", [500_000 + 22.5], [5_800_000 - 17.5])
    shapes = [shapely.box(-180, -90, 180, 90), shapely.box(-10, 30, x, 70)]
    path = write_polygons(tmp_path / "p.geojson", shapes, "EPSG:4326", kind_=["land", "road"])
    found, _ = labels(scene(write(tmp_path / "a.tif", pixels_of(), **GEO), path),
                      MaskCoding(kind="polygons", classes=CLASSES, attribute="kind_"))
    rows, cols = np.indices(HW) + 0.5
    lon, _ = reproject(CRS, "EPSG:4326", *(PLACE @ (cols.ravel(), rows.ravel())))
    np.testing.assert_array_equal(found, np.where(np.array(lon).reshape(HW) < x, 2, 1))


def test_no_polygon_in_the_scene_is_counted(tmp_path: Path) -> None:
    far = write_polygons(tmp_path / "p.gpkg", [square(1000, 0, 5, 5)], kind="Polygon", kind_=["elsewhere"])
    (tmp_path / "none.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    for path in (far, tmp_path / "none.geojson"):
        source = scene(write(tmp_path / "a.tif", pixels_of(), **GEO), path)
        found, ignored = labels(source, MaskCoding(kind="polygons", classes=CLASSES, attribute="kind_"))
        assert (found == 255).all()
        assert ignored == {"no polygon": 70 * 90}


def test_vector_files_that_do_not_fit(tmp_path: Path) -> None:
    image, bare = write(tmp_path / "a.tif", pixels_of(), **GEO), write(tmp_path / "bare.tif", pixels_of())
    nameless = write(tmp_path / "nameless.tif", pixels_of(), transform=PLACE)
    one = [square(0, 0, 5, 5)]
    good = write_polygons(tmp_path / "good.gpkg", one, kind="Polygon", name=["land"], use=["x"])
    no_crs = write_polygons(tmp_path / "no.shp", one, None, kind="Polygon", kind_=["land"])
    line = write_polygons(tmp_path / "line.gpkg", [one[0].exterior], kind="LineString", kind_=["land"])
    mixed = write_polygons(tmp_path / "mixed.geojson", [one[0], one[0].exterior], kind_=["land"] * 2)
    two = write_polygons(tmp_path / "two.gpkg", one, kind="Polygon", kind_=["land"])
    pyogrio.raw.write(two, shapely.to_wkb(one), [], [], layer="second", geometry_type="Polygon", crs=CRS, append=True)
    (tmp_path / "text.gpkg").write_text("no vector file")
    local = write_polygons(tmp_path / "local.gpkg", one, 'LOCAL_CS["mine",UNIT["metre",1]]', kind="Polygon",
                           kind_=["land"])
    cases = ((image, good, r"good\.gpkg: has no field 'kind'; its fields are name, use"),
             (bare, good, r"bare\.tif, which has no georeference"), (nameless, good, r"which has no CRS"),
             (image, no_crs, r"no\.shp: names no CRS"), (image, line, r"line\.gpkg: holds geometry of type LineString"),
             (image, mixed, r"mixed\.geojson: holds geometry of type LineString"),
             (image, local, r"local\.gpkg: is in LOCAL_CS.*, which does not go with .*a\.tif"),
             (image, two, r"two\.gpkg: has 2 layers \(second, two\)"),
             (image, tmp_path / "text.gpkg", r"text\.gpkg: cannot be read as a vector file"),
             (image, write(tmp_path / "m.tif", mask_of()), r"m\.tif: is no vector file"))
    for path, mask, expected in cases:
        coding = POLYGONS if mask in (good, tmp_path / "m.tif") else MaskCoding(
            kind="polygons", classes=CLASSES, attribute="kind_")
        with pytest.raises(SourceError, match=expected):
            labels(scene(path, mask), coding)
    with pytest.raises(SourceError, match=r"good\.gpkg: needs a field .* name, use"):
        patchstore.inspect(scene(image, good), MaskCoding(kind="polygons", classes=CLASSES))
    with pytest.raises(SourceError, match=r"good\.gpkg: holds polygons, .*--data\.mask polygons"):
        patchstore.inspect(scene(image, good), INDEX)
    for source in (scene(image, two), scene(bare, area=good), scene(image, area=line)):
        with pytest.raises(SourceError):
            patchstore.inspect(source)


@pytest.mark.parametrize("kind", ["index", "polygons"])
def test_labels_outside_the_area_are_ignored(tmp_path: Path, kind: str) -> None:
    image, mask = write(tmp_path / "a.tif", pixels_of(), **GEO), mask_of()
    mask[:3, :3] = 255
    shapes = [square(10.2, -5, 30, 50), square(20.2, 40.2, 80, 20)]
    lonlat = shapely.transform(shapes, lambda xy: np.stack(reproject(CRS, "EPSG:4326", *xy.T), axis=1))
    area = write_polygons(tmp_path / "area.geojson", lonlat, "EPSG:4326")
    inside = holds(shapes[0]) | holds(shapes[1])
    if kind == "index":
        source, coding, expected = scene(image, write(tmp_path / "m.tif", mask), area=area), INDEX, mask
        ignored_before = {"255": 9}
    else:
        path = write_polygons(tmp_path / "p.gpkg", [square(0, 0, 40, 90)], kind="Polygon", kind_=["road"])
        source, coding = scene(image, path, area=area), MaskCoding(kind="polygons", classes=CLASSES, attribute="kind_")
        expected = np.where(np.arange(70)[:, None] < 40, 2, np.full(HW, 255))
        ignored_before = {"no polygon": 30 * 90}
    for cut in (10_000, 11):
        found, ignored = labels(source, coding, cut)
        np.testing.assert_array_equal(found, np.where(inside, expected, 255))
        assert ignored == {**ignored_before, "outside the area": int((~inside & (expected != 255)).sum())}
        assert sum(ignored.values()) == (found == 255).sum()
    with SceneReader(source, coding, 255) as reader:
        assert reader.files()[-1] == area
    with SceneReader(scene(image, area=area), coding, 255) as reader:
        assert reader.labels((0, 70)) == (None, {})
        assert "changes nothing" in reader.notes[0]


def test_parts_that_are_empty_and_names_that_are_numbers(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", pixels_of(), **GEO)
    shape = shapely.MultiPolygon([square(2, 2, 10, 10), shapely.Polygon()])
    path = write_polygons(tmp_path / "p.gpkg", [shape], what=["land"])
    found, _ = labels(scene(image, path), replace(POLYGONS, attribute="what"))
    np.testing.assert_array_equal(found == 1, holds(square(2, 2, 10, 10)))
    years = tuple(patchstore.ClassInfo(name, (int(name) % 255, 0, 0)) for name in ("1", "2", "3"))
    shapes = [square(2, 2, 10, 10), square(20, 20, 10, 10)]
    path = write_polygons(tmp_path / "n.gpkg", shapes, what=["0", "2"])
    coding = MaskCoding(kind="polygons", classes=years, attribute="what", ignored=("0",))
    found, ignored = labels(scene(image, path), coding)
    assert (set(np.unique(found)), ignored["0"]) == ({1, 255}, 100)


def test_a_file_that_is_being_edited_is_refused(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", pixels_of(), **GEO)
    path = write_polygons(tmp_path / "p.gpkg", [square(2, 2, 10, 10)], what=["land"])
    path.with_name("p.gpkg-wal").write_bytes(b"changes")
    with pytest.raises(SourceError, match=r"p\.gpkg: is being edited \(p\.gpkg-wal"):
        labels(scene(image, path), replace(POLYGONS, attribute="what"))
