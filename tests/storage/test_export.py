"""What leaves a store is what went in: exports are Cloud-Optimised GeoTIFFs at the right place, whole or absent."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.enums import ColorInterp, MaskFlags

import patchstore
from patchstore import ClassInfo, OutputError, SceneSource, Store, StoreError
from patchstore.exports.cog import CogHeader, Piece, write_cog
from patchstore.format.windows import level_shape

CLASSES = (ClassInfo("water", (0, 0, 255)), ClassInfo("land (bare)", (200, 100, 0)), ClassInfo("road", (90, 90, 90)))
SHAPE = (700, 1100)
TRANSFORM = Affine(0.5, 0.1, 325000.0, 0.1, -0.5, 2770000.0)
CRS = rasterio.CRS.from_epsg(32640)
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # rasters opened here


def raster(path: Path, pixels_BHW: np.ndarray, valid_HW: np.ndarray | None = None, **profile: object) -> Path:
    """A GeoTIFF, with an internal mask where validity is given."""
    with (rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
          rasterio.open(path, "w", driver="GTiff", count=len(pixels_BHW), height=pixels_BHW.shape[1], alpha="NO",
                        width=pixels_BHW.shape[2], dtype=pixels_BHW.dtype, **profile) as file):
        file.write(pixels_BHW)
        if valid_HW is not None:
            file.write_mask(valid_HW)
    return path


def made(folder: Path, dtype: str = "uint8", bands: int = 3, *, gaps: bool = True, georeferenced: bool = True) -> Store:
    """A store of one scene `scene_1` with labels, a tenth of its pixels not real."""
    rng = np.random.default_rng(0)
    place = {"crs": CRS, "transform": TRANSFORM} if georeferenced else {}
    pixels = rng.integers(0, 255, (bands, *SHAPE)).astype(dtype) * np.dtype(dtype).type(2)
    source = SceneSource(
        name="scene_1", group="g",
        image=raster(folder / "image.tif", pixels, rng.random(SHAPE) > 0.1 if gaps else None, **place),
        mask=raster(folder / "mask.tif", rng.choice([0, 1, 2, 255], (1, *SHAPE)).astype(np.uint8), **place))
    uri = patchstore.create(folder / "s.zarr", dtype=dtype, bands=bands, classes=CLASSES, chunk=128, shard=512)
    patchstore.ingest(uri, source)
    return patchstore.open(uri)


@pytest.fixture(name="given_store", scope="module")
def a_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made(tmp_path_factory.mktemp("given"))


def whole(store: Store, array: str, level: int = 0) -> np.ndarray:
    rows, cols = level_shape(SHAPE, level)
    return store.region("scene_1", array, (0, rows), (0, cols), level)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dtype", "bands", "gaps", "georeferenced"), [
    ("uint8", 3, True, True), ("uint8", 4, True, False), ("uint16", 1, False, True), ("int16", 4, True, True),
    ("float32", 2, True, True)])
def test_an_exported_scene_that_is_ingested_again_is_the_same(
        tmp_path: Path, dtype: str, bands: int, gaps: bool, georeferenced: bool) -> None:
    store = made(tmp_path, dtype, bands, gaps=gaps, georeferenced=georeferenced)
    patchstore.export(store, "scene_1", tmp_path / "out" / "image.tif")
    patchstore.export(store, "scene_1", tmp_path / "out" / "mask.tif", array="mask")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["image.tif", "mask.tif"]
    with rasterio.open(tmp_path / "out" / "image.tif") as file:
        assert ColorInterp.alpha not in file.colorinterp, "a fourth band is no opacity"

    uri = patchstore.create(tmp_path / "again.zarr", dtype=dtype, bands=bands, classes=CLASSES)
    patchstore.ingest(uri, SceneSource(name="scene_1", group="g", image=tmp_path / "out" / "image.tif",
                                             mask=tmp_path / "out" / "mask.tif"))
    again = patchstore.open(uri)
    for array in ("image", "mask", "valid"):
        np.testing.assert_array_equal(whole(again, array), whole(store, array))
    one, other = store.scenes["scene_1"], again.scenes["scene_1"]
    assert one.has_valid == other.has_valid == (gaps or dtype == "float32")
    assert (one.crs, one.transform, one.class_pixels) == (other.crs, other.transform, other.class_pixels)


def test_an_image_is_a_cog_with_internal_validity(tmp_path: Path, given_store: Store) -> None:
    patchstore.export(given_store, "scene_1", tmp_path / "image.tif")
    with rasterio.open(tmp_path / "image.tif") as file:
        structure = file.tags(ns="IMAGE_STRUCTURE")
        assert (structure["LAYOUT"], structure["COMPRESSION"], structure["PREDICTOR"]) == ("COG", "DEFLATE", "2")
        assert file.block_shapes == [(512, 512)] * 3
        assert file.overviews(1) == [2, 4]
        assert file.mask_flag_enums == ([MaskFlags.per_dataset],) * 3
        assert file.nodata is None
        assert file.tags()["SCENE"] == "scene_1"
    assert [p.name for p in tmp_path.iterdir()] == ["image.tif"], "the mask is internal"


def test_a_mask_has_the_classes_colours_and_names(tmp_path: Path, given_store: Store) -> None:
    patchstore.export(given_store, "scene_1", tmp_path / "mask.tif", array="mask")
    with rasterio.open(tmp_path / "mask.tif") as file:
        assert json.loads(file.tags()["CLASSES"]) == [info.name for info in CLASSES]
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (file.nodata, file.colorinterp, file.overviews(1)) == (255, (ColorInterp.palette,), [2, 4])
        palette = file.colormap(1)
        assert [palette[k] for k in range(3)] == [(*info.colour, 255) for info in CLASSES]
        assert palette[255][3] == 0, "ignored pixels are transparent"
        assert set(np.unique(file.read(out_shape=(1, 350, 550)))) <= {0, 1, 2, 255}, "overviews invent no class"


def test_overviews_average_over_real_pixels(tmp_path: Path) -> None:
    pixels_HW = np.tile(np.array([[100, 200], [0, 0]], np.uint8), (520, 520))
    valid_HW = np.tile(np.array([[True, True], [False, False]]), (520, 520))
    header = CogHeader(shape=pixels_HW.shape, bands=1, dtype="uint8", crs=None, transform=None, masked=True)
    write_cog(tmp_path / "a.tif", [Piece(0, pixels_HW, valid_HW)], header)
    with rasterio.open(tmp_path / "a.tif", overview_level=0) as file:
        assert file.shape == (520, 520)
        assert (file.read(1) == 150).all()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), level=st.integers(0, 3), array=st.sampled_from(["image", "mask"]))
def test_a_window_opens_at_its_place(tmp_path: Path, given_store: Store, data: st.DataObject, level: int, array: str
                                     ) -> None:
    ranges = []
    for length in level_shape(SHAPE, level):
        first = data.draw(st.integers(0, length - 1))
        ranges.append((first, data.draw(st.integers(first + 1, length))))
    rows, cols = ranges
    path = tmp_path / "window.tif"
    patchstore.export(given_store, "scene_1", path, array=array, rows=rows, cols=cols,  # type: ignore[arg-type]
                      level=level, overwrite=True)
    with rasterio.open(path) as file:
        pixels = whole(given_store, array, level)[..., slice(*rows), slice(*cols)]
        np.testing.assert_array_equal(file.read(), pixels.reshape(file.count, *file.shape))
        if array == "image":
            valid = whole(given_store, "valid", level)[slice(*rows), slice(*cols)]
            np.testing.assert_array_equal(file.dataset_mask() != 0, valid)
        assert file.crs == CRS
        for row, col in ((rows[0], cols[0]), (rows[1], cols[1])):  # corners of the window, by way of the scene
            here = rasterio.transform.xy(file.transform, row - rows[0], col - cols[0], offset="ul")
            there = rasterio.transform.xy(TRANSFORM, row << level, col << level, offset="ul")
            np.testing.assert_allclose(here, there, rtol=0, atol=1e-6)
        assert [file.tags()[key] for key in ("LEVEL", "ROW", "COL")] == [str(n) for n in (level, rows[0], cols[0])]


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"scene": "scene_l"}, ValueError, "no scene 'scene_l'; did you mean 'scene_1'"),
    ({"scene": "x"}, ValueError, "no scene 'x'; it has 1 scenes"),
    ({"rows": (0, 701)}, ValueError, r"rows must be a range within 0 … 700, got 0 … 701"),
    ({"cols": (5, 5)}, ValueError, "cols must be a range"),
    ({"rows": (0, 700), "level": 1}, ValueError, "within 0 … 350"),
    ({"level": 9}, ValueError, "levels 0 … "),
    ({"array": "valid"}, ValueError, "image or mask"),
    ({}, OutputError, "there.tif: exists already; give another name, or overwrite it"),
])
def test_a_failed_export_is_said_and_leaves_the_earlier_file(
        tmp_path: Path, given_store: Store, change: dict[str, object], error: type[Exception], said: str) -> None:
    path = tmp_path / "there.tif"
    path.write_bytes(b"earlier")
    with pytest.raises(error, match=said) as caught:
        patchstore.export(given_store, **({"scene": "scene_1", "path": path} | change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["there.tif"]
    assert path.read_bytes() == b"earlier"


def test_a_scene_without_a_mask_has_none_to_export(tmp_path: Path) -> None:
    image = raster(tmp_path / "image.tif", np.zeros((1, 30, 40), np.uint8))
    uri = patchstore.create(tmp_path / "s.zarr", dtype="uint8", bands=1, classes=())
    patchstore.ingest(uri, SceneSource(name="bare", group="g", image=image))
    with pytest.raises(StoreError, match="scene bare has no mask"):
        patchstore.export(patchstore.open(uri), "bare", tmp_path / "out.tif", array="mask")


@pytest.mark.parametrize(("piece", "said"), [
    (Piece(0, np.zeros((2, 9, 8), np.uint8)), r"1 band\(s\) of uint8, 8 wide, got uint8 \(2, 9, 8\)"),
    (Piece(0, np.zeros((9, 8), np.uint8), np.ones((9, 8), np.bool_)), "no piece must say which of its pixels"),
    (Piece(0, np.zeros(8, np.uint8)), "8 wide"),
])
def test_pieces_are_as_the_header_says(tmp_path: Path, piece: Piece, said: str) -> None:
    header = CogHeader(shape=(9, 8), bands=1, dtype="uint8", crs=None, transform=None)
    with pytest.raises(OutputError, match=said):
        write_cog(tmp_path / "a.tif", [piece], header)
    assert list(tmp_path.iterdir()) == []


def test_a_masked_file_needs_the_validity_of_each_piece(tmp_path: Path) -> None:
    header = CogHeader(shape=(4, 8), bands=1, dtype="uint8", crs=None, transform=None, masked=True)
    pieces = [Piece(0, np.zeros((2, 8), np.uint8), np.ones((2, 8), np.bool_)), Piece(2, np.zeros((2, 8), np.uint8))]
    with pytest.raises(OutputError, match="each piece must say"):
        write_cog(tmp_path / "a.tif", pieces, header)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import os, resource, signal, sys
from pathlib import Path
import patchstore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store, path = patchstore.open(sys.argv[1]), Path(sys.argv[2]) / "image.tif"
patchstore.export(store, "scene_1", path)
whole = path.stat().st_size
path.unlink()
for room in (whole // 8, whole // 2, whole - 1_000, whole - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    try:
        patchstore.export(store, "scene_1", path)
    except patchstore.OutputError as error:
        assert "image.tif: cannot be written" in str(error), error
    else:
        raise AssertionError(f"said nothing with room for {room} of {whole} bytes")
    assert os.listdir(path.parent) == [], room
print("fine")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_full_disk_is_an_error_wherever_it_strikes(tmp_path: Path, given_store: Store) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, given_store.uri, str(tmp_path)], capture_output=True,
                          text=True, check=False)
    assert done.stdout.strip() == "fine", done.stdout + done.stderr
