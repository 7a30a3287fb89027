"""Reading: a store, the raster it was made from and a slow oracle agree, for any window and scale."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

import patchstore
from patchstore.format.windows import inside, level_shape, levels_of, locate, reached, reflect

CLASSES = tuple(patchstore.ClassInfo(name, (i, 2 * i, 3 * i)) for i, name in enumerate("abc"))
KINDS = {  # dtype, bands, shape, value of nodata; levels 4, 3, 2
    "bytes": ("uint8", 3, (310, 660), None),
    "many bands, nodata": ("uint16", 5, (261, 300), 7),
    "floats with holes": ("float32", 1, (97, 150), None),
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A scene in a store, in its file, and as level arrays made by loops."""

    store: patchstore.Store
    file: patchstore.RasterFile
    images: list[np.ndarray]
    masks: list[np.ndarray]


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    dtype, bands, shape, nodata = KINDS[request.param]
    folder: Path = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(3)
    image = (rng.integers(0, 250, (bands, *shape)) * (200 if dtype == "uint16" else 1)).astype(dtype)
    valid = np.ones(shape, bool)
    if nodata is not None or dtype == "float32":
        valid[20:90, 30:75] = False
        valid &= rng.random(shape) < 0.9
        image[:, ~valid] = np.nan if nodata is None else nodata
    mask = rng.integers(0, 3, (-(-shape[0] // 5), -(-shape[1] // 5)), np.uint8).repeat(5, 0).repeat(5, 1)
    mask = np.ascontiguousarray(mask[:shape[0], :shape[1]])
    profile = {"driver": "GTiff", "height": shape[0], "width": shape[1], "tiled": True, "blockxsize": 64,
               "blockysize": 64, "crs": "EPSG:32634", "transform": rasterio.Affine(0.5, 0, 10, 0, -0.5, 20)}
    with rasterio.open(folder / "s.tif", "w", count=bands, dtype=dtype, nodata=nodata, **profile) as file:
        file.write(image)
    with rasterio.open(folder / "m.tif", "w", count=1, dtype="uint8", **profile) as file:
        file.write(mask, 1)
    uri = patchstore.create(folder / "s.zarr", dtype=dtype, bands=bands, classes=CLASSES, chunk=64, shard=128)
    source = patchstore.SceneSource(name="s", image=folder / "s.tif", mask=folder / "m.tif", group="s")
    patchstore.ingest(uri, source)
    labels = np.where(valid, mask, 255).astype(np.uint8)
    image = np.nan_to_num(image)
    levels = range(levels_of(shape))
    return Made(store=patchstore.open(uri), file=patchstore.RasterFile(folder / "s.tif"),
                images=[image, *(np.stack([_mean(band, valid, 1 << level) for band in image]) for level in levels[1:])],
                masks=[labels, *(_majority(labels, 1 << level) for level in levels[1:])])


def _blocks(array: np.ndarray, factor: int) -> list[list[np.ndarray]]:
    return [[array[r:r + factor, c:c + factor] for c in range(0, array.shape[1], factor)]
            for r in range(0, array.shape[0], factor)]


def _mean(band: np.ndarray, valid: np.ndarray, factor: int) -> np.ndarray:
    def mean(pixels: np.ndarray, real: np.ndarray) -> float:
        exact = (pixels[real] if real.any() else pixels.ravel()).astype(np.float64).mean()
        return exact if band.dtype.kind == "f" else np.floor(exact + 0.5)
    pairs = zip(_blocks(band, factor), _blocks(valid, factor))
    return np.array([[mean(p, v) for p, v in zip(*rows)] for rows in pairs]).astype(band.dtype)


def _majority(mask: np.ndarray, factor: int) -> np.ndarray:
    def most(pixels: np.ndarray) -> int:
        values = pixels.ravel()
        return values[np.bincount(values)[values].argmax()]  # the first of the most frequent
    return np.array([[most(block) for block in row] for row in _blocks(mask, factor)], np.uint8)


def _averages(size: int, count: int) -> np.ndarray:
    """Share of each pixel in each patch pixel, along one axis."""
    edges = np.arange(size + 1) * count / size
    return (np.minimum(edges[1:, None], np.arange(1, count + 1)) - np.maximum(edges[:-1, None], np.arange(count))
            ).clip(0) * size / count


def _interpolates(size: int, count: int) -> np.ndarray:
    """The same between pixel centres, the outermost pixels continued."""
    places = ((np.arange(size) + 0.5) * count / size - 0.5).clip(0, count - 1)
    return (1 - np.abs(places[:, None] - np.arange(count))).clip(0)


def _oracle(made: Made, row: int, col: int, side: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    level = min(max(int(np.floor(np.log2(side / size) + 1e-12)), 0), len(made.images) - 1)
    factor = 1 << level
    row, col, count = row // factor, col // factor, -(-side // factor)
    image, mask = made.images[level], made.masks[level]
    pad = max(0, -row, -col, row + count - mask.shape[0], col + count - mask.shape[1])
    image = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="symmetric")
    mask = np.pad(mask, pad, constant_values=255)
    here = np.s_[row + pad:row + pad + count, col + pad:col + pad + count]
    share = _averages(size, count) if count >= size else _interpolates(size, count)
    nearest = np.floor((np.arange(size) + 0.5) * count / size + 1e-9).astype(int)
    return share @ image[:, *here].astype(np.float64) @ share.T, mask[here][np.ix_(nearest, nearest)]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_store_file_and_oracle_agree(made: Made, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 48), "size")
    shape = made.store.scenes["s"].shape
    windows = []
    for _ in range(data.draw(st.integers(1, 3), "windows")):
        scale = data.draw(st.floats(1 / 8, 8) | st.sampled_from([1 / 8, 1 / 2, 1, 2, 4, 8]), "scale")
        side = max(1, int(size * scale))
        row, col = (data.draw(st.integers(-2 * side, n + side), "corner") for n in shape)
        windows.append((row, col, side))
    images, labels = made.store.read([patchstore.Window("s", *w) for w in windows], size)
    np.testing.assert_array_equal(made.file.read(windows, size), images)
    assert images.dtype == made.store.dtype
    for window, image, label in zip(windows, images, labels):
        fixed = 0.9 if images.dtype == np.uint8 and window[2] < size else 0.51  # OpenCV enlarges bytes in fixed point
        tolerance = {"rtol": 1e-5, "atol": 1e-3} if images.dtype.kind == "f" else {"rtol": 0, "atol": fixed}
        expected_image, expected_label = _oracle(made, *window, size)
        np.testing.assert_allclose(image.astype(np.float64), expected_image, **tolerance)
        np.testing.assert_array_equal(label, expected_label)


def test_stored_levels_are_the_oracles(made: Made) -> None:
    scene = made.store.scenes["s"]
    assert scene.levels == len(made.images)
    for level, (image, mask) in enumerate(zip(made.images, made.masks)):
        rows, cols = ((0, n) for n in level_shape(scene.shape, level))
        stored = made.store.region("s", "image", rows, cols, level)
        np.testing.assert_array_equal(made.store.region("s", "mask", rows, cols, level), mask)
        if image.dtype.kind == "f":  # the order of additions differs
            np.testing.assert_allclose(stored, image, rtol=1e-6)
        else:
            np.testing.assert_array_equal(stored, image)


def test_valid_is_the_files(made: Made) -> None:
    rows, cols = ((0, n) for n in made.file.shape)
    np.testing.assert_array_equal(made.store.region("s", "valid", rows, cols), made.file.valid(rows, cols))
    assert made.file.has_valid == made.store.scenes["s"].has_valid


@given(start=st.integers(-500, 500), count=st.integers(1, 300), length=st.integers(1, 100))
def test_reflection_is_symmetric_padding(start: int, count: int, length: int) -> None:
    pad = max(0, -start, start + count - length)
    expected = np.pad(np.arange(length), pad, mode="symmetric")[start + pad:start + pad + count]
    np.testing.assert_array_equal(reflect(start, count, length), expected)
    assert reached(start, count, length) == (expected.min(), expected.max() + 1)
    low, high = inside(start, count, length)
    assert set(range(low, high)) == set(range(start, start + count)) & set(range(length))


@pytest.mark.parametrize(("side", "size", "level", "read"), [
    (256, 256, 0, 256), (511, 256, 0, 511), (512, 256, 1, 256), (513, 256, 1, 257), (1024, 256, 2, 256),
    (1000, 250, 2, 250), (3, 1, 1, 2), (8192, 256, 3, 1024), (255, 256, 0, 255), (32, 256, 0, 32)])
def test_level_follows_from_side_and_size(side: int, size: int, level: int, read: int) -> None:
    square = locate(-5, 13, side, size, levels=4)
    assert (square.level, square.side) == (level, read)
    assert (square.row, square.col) == (-5 // 2**level, 13 // 2**level)


def test_pixels_are_not_enlarged_without_end() -> None:
    with pytest.raises(ValueError, match=r"side \(31 scene pixels\) must be at least 1/8 of the patch size \(256"):
        locate(0, 0, 31, 256, levels=4)
