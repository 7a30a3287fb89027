"""Inputs: every kind of image and mask that a scene may have, read as an ingest reads it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.transform import Affine
from rasterio.warp import transform as reproject

import patchstore
from patchstore import ClassInfo, MaskCoding, SceneReader, SceneSource, SourceError
from patchstore.format.conventions import pixel_m2
from test_ingest import write

CLASSES = (ClassInfo("water", (0, 0, 255)), ClassInfo("land", (200, 100, 0)), ClassInfo("road", (9, 9, 9)))
INDEX = MaskCoding(classes=CLASSES)
COLOUR = MaskCoding(kind="colour", classes=CLASSES)
CRS = "EPSG:32634"
PLACE = Affine(0.5, 0, 500_000, 0, -0.5, 5_800_000)
HW = (70, 90)
GEO = {"crs": CRS, "transform": PLACE}
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # the rasters made here
Region = tuple[np.ndarray, np.ndarray, np.ndarray]


def write_polygons(path: Path, shapes: Sequence[shapely.Geometry], crs: str | None = CRS, *, kind: str = "Unknown",
                   **fields: Sequence[object]) -> Path:
    pyogrio.raw.write(path, shapely.to_wkb(np.array(shapes, object)), [np.array(v) for v in fields.values()],
                      list(fields), geometry_type=kind, crs=crs)
    return path


def at(*pixels: tuple[float, float]) -> list[tuple[float, float]]:
    """Coordinates of (row, col) places."""
    return [PLACE @ (col, row) for row, col in pixels]


def square(row: float, col: float, height: float, width: float) -> shapely.Polygon:
    return shapely.Polygon(at((row, col), (row, col + width), (row + height, col + width), (row + height, col)))


def pixels_of(shape: tuple[int, ...] = (3, *HW), dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(max(info.min, -3000), min(info.max, 60000) + 1, shape).astype(dtype)


def mask_of(shape: tuple[int, int] = HW, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 3, tuple(-(-n // 5) for n in shape), np.uint8)
    return np.ascontiguousarray(coarse.repeat(5, 0).repeat(5, 1)[:shape[0], :shape[1]])


def scene(image: Path, mask: Path | None = None, **more: object) -> SceneSource:
    return SceneSource(name="a", image=image, mask=mask, group="a", **more)  # type: ignore[arg-type]


def labels(source: SceneSource, coding: MaskCoding = INDEX, cut: int = 10_000) -> tuple[np.ndarray, dict[str, int]]:
    """All labels of a scene, read `cut` rows at once, and what is ignored by value."""
    with SceneReader(source, coding, 255) as reader:
        bands, ignored = [], dict[str, int]()
        for row in range(0, reader.info.shape[0], cut):
            band, counts = reader.labels((row, min(row + cut, reader.info.shape[0])))
            assert band is not None
            bands.append(band)
            ignored = {key: ignored.get(key, 0) + counts.get(key, 0) for key in ignored | counts}
    return np.concatenate(bands), ignored


def ingest(folder: Path, source: SceneSource, coding: MaskCoding = INDEX) -> Region:
    """(image, mask, valid) of a scene after an ingest into a store of its kind."""
    info = patchstore.inspect(source, coding)
    uri = patchstore.create(folder / f"{len(list(folder.glob('*.zarr')))}.zarr", dtype=info.dtype, bands=info.bands,
                            classes=CLASSES, chunk=64, shard=64)
    patchstore.ingest(uri, source, coding)
    store = patchstore.open(uri)
    rows, cols = ((0, n) for n in store.scenes["a"].shape)
    return tuple(store.region("a", name, rows, cols) for name in ("image", "mask", "valid"))  # type: ignore[return-value, arg-type]


LAYOUTS = {"striped": {}, "one_strip": {"blockysize": HW[0], "compress": "deflate"},
           "tiled": {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "zstd"},
           "by_band": {"interleave": "band", "compress": "lzw"}}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("bands", "absent"), [(1, "nothing"), (2, "value"), (5, "internal")])
def test_geotiffs_of_every_kind(tmp_path: Path, dtype: str, layout: str, bands: int, absent: str) -> None:
    image, mask, real = pixels_of((bands, *HW), dtype), mask_of(), np.ones(HW, bool)
    profile = {**LAYOUTS[layout], **GEO}
    if absent != "nothing":
        real[60:, 10:40] = False
        image[:, 60:, 10:40] = 7
        image[0, :5] = 7  # the value in one band alone is no nodata
        image[1:, :5] = 8
        profile |= {"nodata": 7} if absent == "value" else {}
    if dtype == "float32":
        image[0, 3, 3:5], real[3, 3:5] = (np.nan, np.inf), False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write(tmp_path / "a.tif", image, **profile)
        if absent == "internal":
            with rasterio.open(path, "r+") as file:
                file.write_mask(real | ~np.isfinite(image).all(axis=0))
    found, found_mask, found_valid = ingest(tmp_path, scene(path, write(tmp_path / "m.tif", mask)))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.where(np.isfinite(image), image, 0))
    if absent != "value":
        np.testing.assert_array_equal(found_valid, real)
    else:
        np.testing.assert_array_equal(found_valid, (image != 7).any(axis=0) & np.isfinite(image).all(axis=0))
    np.testing.assert_array_equal(found_mask, np.where(found_valid, mask, 255))


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", -9999), ("int16", -32768), ("float32", float("nan")),
                                               ("float32", -3.4028234663852886e38), ("uint16", 65535)])
def test_nodata_values_that_types_have_or_not(tmp_path: Path, dtype: str, nodata: float) -> None:
    image = pixels_of((1, *HW), dtype)
    image[0, 0, :3] = nodata if dtype != "uint8" else 255
    path = write(tmp_path / "a.tif", image, **({} if dtype == "uint8" else {"nodata": nodata}))
    if dtype == "uint8":  # rasterio writes no such value, but others do
        path.with_name("a.tif.aux.xml").write_text(
            f'<PAMDataset><PAMRasterBand band="1"><NoDataValue>{nodata}</NoDataValue></PAMRasterBand></PAMDataset>')
    with SceneReader(scene(path), INDEX, 255) as reader:
        valid = reader.pixels((0, HW[0]), (0, HW[1]))[1]
    expected = np.ones(HW, bool)
    expected[0, :3] = dtype == "uint8"
    np.testing.assert_array_equal(np.ones(HW, bool) if valid is None else valid, expected)


@pytest.mark.parametrize(("types", "expected"), [
    (["uint8", "uint8"], "uint8"), (["uint8", "uint16"], "uint16"), (["uint8", "int16"], "int16"),
    (["uint16", "int16"], "float32"), (["uint8", "uint8", "float32"], "float32")])
def test_a_stack_has_all_bands_in_a_type_that_holds_them(tmp_path: Path, types: list[str], expected: str) -> None:
    parts = [pixels_of((n + 1, *HW), dtype, n) for n, dtype in enumerate(types)]
    paths = [write(tmp_path / f"{n}.tif", part, **GEO, **({"nodata": 5} if n == 1 else {}))
             for n, part in enumerate(parts)]
    source = scene(paths[0], stacked=tuple(paths[1:]))
    image, mask, valid = ingest(tmp_path, source)
    assert image.dtype == expected
    np.testing.assert_array_equal(image, np.concatenate([part.astype("float64") for part in parts]))
    np.testing.assert_array_equal(valid, (parts[1] != 5).any(axis=0))
    assert (mask == 255).all()
    with SceneReader(source, INDEX, 255) as reader:
        assert reader.files() == tuple(paths)
        part, _ = reader.pixels((20, 41), (3, 50))
    np.testing.assert_array_equal(part, image[:, 20:41, 3:50])


def test_files_of_a_stack_must_lie_on_one_grid(tmp_path: Path) -> None:
    image, height = write(tmp_path / "a.tif", pixels_of(), **GEO), pixels_of((1, *HW), "float32")
    aside = write(tmp_path / "dsm.tif", height, crs=CRS, transform=PLACE @ Affine.translation(4, 0))
    with pytest.raises(SourceError, match=r"dsm\.tif: has corners up to 4 pixels aside .*a\.tif.*--align"):
        patchstore.inspect(scene(image, stacked=(aside,)))
    found, _, valid = ingest(tmp_path, scene(image, stacked=(aside,), align=True))
    np.testing.assert_allclose(found[3, :, 4:], height[0, :, :-4], atol=1e-5)
    assert valid[:, 4:].all()
    assert not valid[:, :4].any()
    assert patchstore.inspect(scene(image, stacked=(aside,), align=True)).has_valid
    alpha = write(tmp_path / "rgba.tif", pixels_of((4, *HW)), crs=CRS, transform=PLACE @ Affine.scale(2),
                  photometric="RGB", alpha="yes")
    with pytest.raises(SourceError, match=r"rgba\.tif: .*marked as alpha"):
        patchstore.inspect(scene(image, stacked=(alpha,), align=True))


@pytest.mark.parametrize("crs", ["", "EPSG:32633"])
def test_a_mask_fits_to_half_a_pixel(tmp_path: Path, crs: str) -> None:
    image, mask = write(tmp_path / "a.tif", pixels_of(), **GEO), mask_of()
    for shift, fits in ((1e-9, True), (0.2, True), (0.5, True), (0.51, False)):
        where = PLACE @ Affine.translation(0, -shift)
        path = write(tmp_path / f"m{shift}.tif", mask, crs=CRS, transform=where)
        if fits:
            np.testing.assert_array_equal(labels(scene(image, path))[0], mask)
        else:
            with pytest.raises(SourceError, match=r"m0\.51\.tif: .* 0\.51 pixels aside of its image .*a\.tif.*--align"):
                labels(scene(image, path))
    coarse = write(tmp_path / "coarse.tif", mask, crs=CRS, transform=PLACE @ Affine.scale(1.02))
    with pytest.raises(SourceError, match=r"coarse\.tif: has corners up to 1\.8 pixels aside"):
        patchstore.inspect(scene(image, coarse))
    other = write(tmp_path / "other.tif", mask, crs=crs or "EPSG:4326", transform=PLACE)
    expected = rf"other\.tif: is in {crs or 'EPSG:4326'}, but its image .*a\.tif is in EPSG:32634.*--align"
    with pytest.raises(SourceError, match=expected):
        patchstore.inspect(scene(image, other))


def test_masks_without_georeference_fit_by_shape(tmp_path: Path) -> None:
    image, mask = write(tmp_path / "a.tif", pixels_of(), **GEO), mask_of()
    np.testing.assert_array_equal(labels(scene(image, write(tmp_path / "m.png", mask)))[0], mask)
    small = write(tmp_path / "s.png", mask[:-2])
    expected = r"s\.png: is 68 x 90 .* is 70 x 90; it cannot be aligned, since .*s\.png"
    for align in (False, True):
        with pytest.raises(SourceError, match=expected):
            labels(scene(image, small, align=align))


@pytest.mark.parametrize("form", ["index", "nodata", "rgb", "rgba", "palette", "int16"])
def test_an_aligned_mask_is_warped_to_the_nearest_pixel(tmp_path: Path, form: str) -> None:
    mask = mask_of((80, 100))
    image = write(tmp_path / "a.tif", pixels_of(), **GEO)
    where = {"crs": CRS, "transform": PLACE @ Affine.translation(5, 3)}
    colours = np.array([c.colour for c in CLASSES], np.uint8)[mask].transpose(2, 0, 1)
    path, coding = tmp_path / "m.tif", INDEX if form in ("index", "nodata", "int16") else COLOUR
    if form == "rgb":
        write(path, colours, **where)
    elif form == "rgba":
        write(path, np.concatenate([colours, np.full((1, 80, 100), 255, np.uint8)]), photometric="RGB", alpha="yes",
              **where)
    elif form == "palette":
        write(path, mask, {k: (*c.colour, 255) for k, c in enumerate(CLASSES)}, **where)
    else:
        write(path, mask.astype("int16" if form == "int16" else "uint8"), **where,
              **({"nodata": 0} if form == "nodata" else {}))
    source = scene(image, path, align=True)
    with pytest.raises(SourceError, match=r"--align"):
        labels(scene(image, path), coding)
    expected = np.full(HW, 255, np.uint8)
    expected[3:, 5:] = mask[:67, :85]
    for cut in (10_000, 13):
        found, ignored = labels(source, coding, cut)
        np.testing.assert_array_equal(found, expected)
        assert ignored == {"outside the mask": 70 * 90 - 67 * 85}
    with SceneReader(source, coding, 255) as reader:
        assert len(reader.notes) == 1
        assert all(text in reader.notes[0] for text in ("m.tif", "80 x 100", "15 pixels aside", "nearest"))


def test_a_mask_of_another_crs_is_warped_to_where_it_lies(tmp_path: Path) -> None:
    mask = np.zeros((400, 400), np.uint8)
    mask[:, 200:] = 1
    (x,), (y,) = reproject(CRS, "EPSG:4326", [500_000 + 22.5], [5_800_000 - 17.5])  # the scene's middle
    side = 5e-6
    path = write(tmp_path / "m.tif", mask, crs="EPSG:4326",
                 transform=Affine(side, 0, x - 200 * side, 0, -side, y + 200 * side))
    source = scene(write(tmp_path / "a.tif", pixels_of(), **GEO), path, align=True)
    found, ignored = labels(source)
    rows, cols = np.indices(HW) + 0.5
    lon, _ = reproject(CRS, "EPSG:4326", *(PLACE @ (cols.ravel(), rows.ravel())))
    np.testing.assert_array_equal(found, (np.array(lon).reshape(HW) >= x).astype(np.uint8))
    assert ignored == {}
    np.testing.assert_array_equal(labels(source, cut=7)[0], found)


def test_a_nodata_value_of_an_index_mask_needs_no_declaration_unless_it_is_a_class(tmp_path: Path) -> None:
    image, mask = write(tmp_path / "a.tif", pixels_of()), mask_of().astype(np.int16)
    found, ignored = labels(scene(image, write(tmp_path / "zero.tif", mask, nodata=0)))
    np.testing.assert_array_equal(found, mask)
    assert ignored == {}
    for nodata in (7, -9999, 3000):
        mask[0, :6] = nodata
        found, ignored = labels(scene(image, write(tmp_path / "other.tif", mask, nodata=nodata)))
        assert ignored == {str(nodata): 6}
        np.testing.assert_array_equal(found[1:], mask[1:])
        with pytest.raises(SourceError, match=rf"indices that no class has: {nodata} \(6 px\)"):
            labels(scene(image, write(tmp_path / "none.tif", mask)))
        declared = MaskCoding(classes=CLASSES, ignored=(str(nodata),))
        assert labels(scene(image, tmp_path / "none.tif"), declared)[1] == {str(nodata): 6}


def test_stray_values_are_ignored_where_asked_for_and_counted(tmp_path: Path) -> None:
    image, mask = write(tmp_path / "a.tif", pixels_of()), mask_of().astype(np.uint16)
    mask[0, :9] = [3, 3, 3, 4, 4, 300, 300, 255, 1]
    path = write(tmp_path / "m.tif", mask)
    with pytest.raises(SourceError, match=r"3 \(3 px\), 4 \(2 px\), 300 \(2 px\).*--data\.stray ignore"):
        labels(scene(image, path))
    found, ignored = labels(scene(image, path), MaskCoding(classes=CLASSES, stray="ignore"))
    assert ignored == {"3": 3, "4": 2, "300": 2, "255": 1}
    np.testing.assert_array_equal(found, np.where((mask > 2), 255, mask))
    colours = np.array([c.colour for c in CLASSES], np.uint8)[mask_of()].transpose(2, 0, 1)
    colours[:, 5, :40] = np.arange(40) + 100
    path = write(tmp_path / "c.tif", colours)
    found, ignored = labels(scene(image, path), MaskCoding(kind="colour", classes=CLASSES, stray="ignore"))
    assert ignored == {"other colours": 40}
    assert (found[5, :40] == 255).all()


@pytest.mark.parametrize(("driver", "image", "world"), [
    ("GTiff", "a.tif", "a.tfw"), ("JPEG", "a.jpg", "a.jgw"), ("PNG", "a.png", "a.pgw"), ("PNG", "a.png", "a.wld")])
def test_world_files_place_an_image(tmp_path: Path, driver: str, image: str, world: str) -> None:
    path = write(tmp_path / image, pixels_of())
    a, b, c, d, e, f = tuple(PLACE)[:6]
    (tmp_path / world).write_text("\n".join(map(str, (a, d, b, e, c + a / 2, f + e / 2))))
    info = patchstore.inspect(scene(path))
    assert (info.crs, info.transform) == (None, tuple(PLACE)[:6])
    filled = patchstore.inspect(scene(path, crs=CRS))
    assert filled.crs is not None
    assert rasterio.CRS.from_wkt(filled.crs) == rasterio.CRS.from_epsg(32634)
    field = write_polygons(tmp_path / "p.gpkg", [square(0, 0, 10, 20)], kind="Polygon", **{"class": ["road"]})
    coding = MaskCoding(kind="polygons", classes=CLASSES, attribute="class", background="land")
    found, _ = labels(scene(path, field, crs=CRS), coding)
    assert ((found == 2) == np.pad(np.ones((10, 20), bool), ((0, 60), (0, 70)))).all()


@pytest.mark.parametrize(("crs", "expected"), [
    ("EPSG:32634", 0.25), ("EPSG:2263", 0.25 * (1200 / 3937) ** 2), ("EPSG:4326", None), (None, None),
    ("EPSG:3857", None), ("EPSG:3395", None), ("EPSG:3832", None), ("ESRI:54004", None), ("EPSG:32662", None)])
def test_the_ground_of_a_pixel(crs: str | None, expected: float | None) -> None:
    """Mercator's metres are metres on the ground at one latitude only."""
    wkt = None if crs is None else rasterio.CRS.from_user_input(crs).to_wkt()
    assert pixel_m2(wkt, (0.3, 0.4, 5e5, 0.4, -0.3, 5e6)) == pytest.approx(expected)
    assert pixel_m2(wkt, None) is None


def test_a_crs_that_is_none_has_no_ground() -> None:
    with pytest.raises(SourceError, match="'UTM 34' is no coordinate reference system"):
        pixel_m2("UTM 34", (1, 0, 0, 0, -1, 0))


def test_a_crs_is_given_only_where_there_is_none(tmp_path: Path) -> None:
    placed, bare = write(tmp_path / "a.tif", pixels_of(), **GEO), write(tmp_path / "b.tif", pixels_of())
    assert patchstore.inspect(scene(placed, crs=CRS)).crs is not None
    for path, crs, expected in ((placed, "EPSG:32633", "is in EPSG:32634, so it cannot be in EPSG:32633"),
                                (bare, CRS, "has no georeference"), (placed, "nowhere", "'nowhere' is no coordinate")):
        with pytest.raises(SourceError, match=expected):
            patchstore.inspect(scene(path, crs=crs))


def test_a_fingerprint_knows_all_that_decides_the_bytes(tmp_path: Path) -> None:
    image, mask = write(tmp_path / "a.tif", pixels_of(), **GEO), write(tmp_path / "m.tif", mask_of(), **GEO)
    moved = write(tmp_path / "moved.tif", mask_of(), crs=CRS, transform=PLACE @ Affine.translation(2, 0))
    area = write_polygons(tmp_path / "area.gpkg", [square(0, 0, 40, 40)], kind="Polygon")

    def seen(source: SceneSource) -> tuple[object, ...]:
        with SceneReader(source, INDEX, 255) as reader:
            return *(path.read_bytes() for path in reader.files()), *reader.settings()

    sources = [scene(image), scene(image, mask), scene(image, moved, align=True), scene(image, stacked=(mask,)),
               scene(image, mask, area=area)]
    found = [seen(source) for source in sources]
    assert len({*found}) == len(found)
    assert seen(scene(image, mask, align=True)) == seen(scene(image, mask))
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset/>")  # what a viewer notes changes nothing
    assert [seen(source) for source in sources] == found
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(image, "r+") as file:
        file.write_mask(mask_of() > 0)
    with SceneReader(scene(image), INDEX, 255) as reader:
        assert [path.name for path in reader.files()] == ["a.tif", "a.tif.msk"]
        np.testing.assert_array_equal(reader.pixels((0, 70), (0, 90))[1], mask_of() > 0)


def test_codings_that_contradict_themselves() -> None:
    for more, expected in (({"attribute": "x"}, "kind is index"), ({"ignored": ("x",)}, "must be indices"),
                           ({"kind": "polygons", "background": "sea"}, "background must be one of the classes water"),
                           ({"kind": "polygons", "ignored": ("land",)}, "land stands more than once"),
                           ({"kind": "polygons", "ignored": ("1",)}, "1 stands more than once")):
        with pytest.raises(ValueError, match=expected):
            MaskCoding(classes=CLASSES, **more)  # type: ignore[arg-type]


def test_what_a_mask_leaves_out_itself_is_ignored(tmp_path: Path) -> None:
    image, mask = write(tmp_path / "a.png", pixels_of()), mask_of()
    alpha = np.full(mask.shape, 255, np.uint8)
    alpha[:4] = 0
    colours = np.array([info.colour for info in CLASSES], np.uint8)[mask].transpose(2, 0, 1)
    path = write(tmp_path / "m.png", np.concatenate([colours, alpha[None]]))
    found, ignored = labels(scene(image, path), MaskCoding(kind="colour", classes=CLASSES))
    np.testing.assert_array_equal(found, np.where(alpha == 0, 255, mask))
    assert ignored == {"outside the mask": 4 * mask.shape[1]}
