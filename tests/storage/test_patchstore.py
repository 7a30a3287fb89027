"""The store: its metadata, its cells, its errors, and what other readers make of it."""

import os
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import patchstore
from patchstore import CELL, ClassInfo, ReadError, StateError, Store, StoreError, Window
from patchstore.format import locations
from patchstore.format.pyramid import area_mean, cell_counts, cell_moments, majorities

CLASSES = (ClassInfo("water", (0, 0, 255)), ClassInfo("land", (200, 100, 0)))
SHAPE = (200, 300)
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # the rasters made here


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one scene `s`, chunks of 64 and shards of 128."""
    folder = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    for name, bands, high in (("s", 3, 256), ("m", 1, 2)):
        with rasterio.open(folder / f"{name}.png", "w", driver="PNG", count=bands, height=SHAPE[0], width=SHAPE[1],
                           dtype="uint8") as file:
            file.write(rng.integers(0, high, (bands, *SHAPE), np.uint8))
    uri = patchstore.create(folder / "s.zarr", dtype="uint8", bands=3, classes=CLASSES, chunk=64, shard=128)
    patchstore.ingest(uri, patchstore.SceneSource(name="s", image=folder / "s.png", mask=folder / "m.png",
                                                        group="s"))
    return folder / "s.zarr"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A store that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "s.zarr"))


def whole(store: Store, array: str = "image") -> np.ndarray:
    return store.region("s", array, (0, SHAPE[0]), (0, SHAPE[1]))  # type: ignore[arg-type]


def test_zarr_python_opens_it(made: Path) -> None:
    store, group = patchstore.open(made), zarr.open_group(made, mode="r")
    assert group.attrs["patchstore"]["classes"][1] == {"index": 1, "name": "land", "colour": "#C86400"}
    scene = group["s"]
    assert scene.attrs["patchstore"]["version"] == store.scenes["s"].version
    arrays = scene[store.scenes["s"].version]
    image = arrays["0/image"]
    assert (image.metadata.dimension_names, image.chunks, image.shards) == (
        ("band", "y", "x"), (3, 64, 64), (3, 128, 128))
    np.testing.assert_array_equal(image[:], whole(store))
    np.testing.assert_array_equal(arrays["0/mask"][:], whole(store, "mask"))
    np.testing.assert_array_equal(arrays["1/mask"][:], store.region("s", "mask", (0, 100), (0, 150), 1))
    np.testing.assert_array_equal(arrays["counts"][:], store.counts("s"))
    np.testing.assert_array_equal(arrays["moments"][:], store.moments("s"))
    assert {name for name, _ in arrays.members()} == {"0", "1", "2", "counts", "moments", "manifest"}


def test_cells_count_every_pixel_once(made: Path) -> None:
    store = patchstore.open(made)
    counts, moments, image, mask = store.counts("s"), store.moments("s"), whole(store), whole(store, "mask")
    assert counts.shape == (4, 5, 2)
    assert moments.shape == (4, 5, 3, 3)
    assert counts.dtype == np.int64
    for r, c in ((0, 0), (2, 3), (3, 4)):
        cell = np.s_[r * CELL:(r + 1) * CELL, c * CELL:(c + 1) * CELL]
        np.testing.assert_array_equal(counts[r, c], np.bincount(mask[cell].ravel(), minlength=2))
        pixels = image[:, *cell].reshape(3, -1).astype(float)
        np.testing.assert_array_equal(moments[r, c].T, [[pixels.shape[1]] * 3, pixels.sum(1), (pixels**2).sum(1)])
    scene = store.scenes["s"]
    assert scene.class_pixels == tuple(counts.sum((0, 1)))
    np.testing.assert_array_equal(scene.band_sums, moments.sum((0, 1)))


@settings(max_examples=60, deadline=None)
@given(mask=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
                       elements=st.sampled_from([0, 1, 2, 255])), factor=st.sampled_from([2, 4, 8, 32]))
def test_majority_is_the_first_of_the_most_frequent(mask: np.ndarray, factor: int) -> None:
    for (r, c), value in np.ndenumerate(majorities(mask, [factor.bit_length() - 1])[factor.bit_length() - 1]):
        block = mask[r * factor:(r + 1) * factor, c * factor:(c + 1) * factor].ravel().tolist()
        assert value == max(block, key=block.count)


@settings(max_examples=60, deadline=None)
@given(image=hnp.arrays(st.sampled_from([np.uint8, np.int16, np.uint16]), st.tuples(
    st.just(2), st.integers(1, 40), st.integers(1, 40))), factor=st.sampled_from([2, 4, 32]), data=st.data())
def test_area_mean_is_rounded_half_up_over_valid_pixels(image: np.ndarray, factor: int, data: st.DataObject) -> None:
    valid = data.draw(st.none() | hnp.arrays(np.bool_, image.shape[1:]))
    means = area_mean(image, factor, valid)
    assert means.dtype == image.dtype
    for (band, r, c), value in np.ndenumerate(means):
        here = np.s_[r * factor:(r + 1) * factor, c * factor:(c + 1) * factor]
        pixels = image[band][here].astype(int)
        if valid is not None and valid[here].any():
            pixels = pixels[valid[here]]
        assert value == (int(pixels.sum()) + pixels.size // 2) // pixels.size


@settings(max_examples=20, deadline=None)
@given(shape=st.tuples(st.integers(1, 150), st.integers(1, 150)), seed=st.integers(0, 99))
def test_cell_statistics_add_up(shape: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, mask = rng.integers(0, 65536, (2, *shape), np.uint16), rng.integers(0, 4, shape, np.uint8)
    valid = rng.random(shape) < 0.5
    counts = cell_counts(mask, 3).sum((0, 1), dtype=int)
    np.testing.assert_array_equal(counts, np.bincount(mask.ravel(), minlength=4)[:3])
    pixels = image[:, valid].astype(float)
    np.testing.assert_array_equal(cell_moments(image, valid).sum((0, 1)).T,
                                  [[valid.sum()] * 2, pixels.sum(1), (pixels**2).sum(1)])


def test_create_refuses_other_settings(made: Path) -> None:
    same = {"dtype": np.uint8, "bands": 3, "classes": list(CLASSES), "chunk": 64, "shard": 128}
    assert patchstore.create(made, **same) == str(made)  # type: ignore[arg-type]
    for other, expected in (({"chunk": 128}, "chunk 64, not 128"), ({"dtype": "int16"}, "dtype 'uint8', not 'int16'"),
                            ({"classes": CLASSES[:1]}, "classes water=#0000FF, land=#C86400, not water=#0000FF")):
        with pytest.raises(StoreError, match=expected):
            patchstore.create(made, **{**same, **other})  # type: ignore[arg-type]
    for wrong, expected in (({"chunk": 100}, "chunk must be a multiple"), ({"bands": 0}, "bands must be 1 or more"),
                            ({"dtype": "float64"}, "dtype must be one of"), ({"ignore": 1}, "ignore must be from 2")):
        with pytest.raises(ValueError, match=expected):
            patchstore.create(made.parent / "wrong.zarr", **{**same, **wrong})  # type: ignore[arg-type]
    assert not (made.parent / "wrong.zarr").exists()


def test_open_says_what_it_found(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere: no store is there"):
        patchstore.open(tmp_path / "nowhere")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="not a store of scenes"):
        patchstore.open(tmp_path / "other.zarr")
    metadata = copy / "zarr.json"
    text = metadata.read_text()
    metadata.write_text(text.replace('"format": 2', '"format": 9'))
    with pytest.raises(StoreError, match="a store of format 9, but this program reads format 2"):
        patchstore.open(copy)
    metadata.write_text(text[:100])
    with pytest.raises(StoreError, match="torn or of another kind"):
        patchstore.open(copy)
    with pytest.raises(StoreError, match="not the address of a store"):
        patchstore.open("ftp://host/store")


def test_unfinished_scenes_are_not_listed(copy: Path) -> None:
    (copy / "half/0123/image").mkdir(parents=True)
    (copy / "bare").mkdir()
    assert list(patchstore.open(copy).scenes) == ["s"]
    (copy / "bare/zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')  # by no ingest
    with pytest.raises(StoreError, match=r"scene bare: its attributes are gone .*; ingest this scene again"):
        patchstore.open(copy)


def test_wrong_arguments_are_named(made: Path) -> None:
    store = patchstore.open(made)
    with pytest.raises(ValueError, match="no scene 'x'; it has s"):
        store.read([Window("x", 0, 0, 8)], 8)
    for side, size in ((8, 72), (0, 0), (8, -1)):
        with pytest.raises(ValueError, match=r"must be at least 1/8 of the patch size"):
            store.read([Window("s", 0, 0, side)], size)
    with pytest.raises(ValueError, match=r"cols must be a range within 0 … 300, got 290 … 301"):
        store.region("s", "image", (0, 1), (290, 301))
    with pytest.raises(ValueError, match="levels 0 … 2, got 3"):
        store.region("s", "image", (0, 1), (0, 1), 3)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("damage", "chunk"), [
    (_flip, r", chunk \(0, 2, 2\) in shard c/0/1/1"),
    (lambda path: path.write_bytes(path.read_bytes()[:500]), ", chunk .* in shard c/0/1/1"),
    (lambda path: path.write_bytes(b""), ", chunk .* in shard c/0/1/1"),
    (lambda path: path.unlink(), ", chunk .* in shard c/0/1/1")], ids=["flipped", "cut", "empty", "missing"])
def test_damage_is_an_error_that_names_the_chunk(copy: Path, damage: object, chunk: str) -> None:
    version = patchstore.open(copy).scenes["s"].version
    damage(copy / f"s/{version}/0/image/c/0/1/1")  # type: ignore[operator]
    store = patchstore.open(copy)
    expected = rf"s\.zarr: scene s, array 0/image{chunk}: absent or damaged .* ingest the scene again"
    for window in (Window("s", 130, 130, 64), Window("s", 120, 120, 100)):
        with pytest.raises(ReadError, match=expected):
            store.read([Window("s", 0, 0, 64), window], 64)
    with pytest.raises(ReadError, match=expected):
        whole(store)
    store.read([Window("s", 0, 0, 64)], 64)  # what is whole can still be read


def test_a_missing_array_is_an_error(copy: Path) -> None:
    store = patchstore.open(copy)
    version = store.scenes["s"].version
    shutil.rmtree(copy / f"s/{version}/0/mask")
    (copy / f"s/{version}/counts/c/0/0/0").unlink()
    with pytest.raises(ReadError, match=r"scene s, array 0/mask.*absent or damaged"):
        store.read([Window("s", 0, 0, 32)], 32)
    with pytest.raises(ReadError, match=r"scene s, array counts.*absent or damaged"):
        store.counts("s")


def test_it_pickles_as_its_uri(made: Path) -> None:
    store = patchstore.open(str(made), cache_bytes=1 << 20)
    again = pickle.loads(pickle.dumps(store))  # noqa: S301 (made here)
    assert (again.uri, again.cache_bytes, again.fingerprint) == (str(made), 1 << 20, store.fingerprint)
    assert len(pickle.dumps(store)) < 400
    np.testing.assert_array_equal(whole(again), whole(store))
    file = patchstore.RasterFile(made.parent / "s.png", bands=3)
    copied = pickle.loads(pickle.dumps(file))  # noqa: S301
    np.testing.assert_array_equal(copied.read([(0, 0, 64)], 32), file.read([(0, 0, 64)], 32))


def test_threads_share_it(made: Path) -> None:
    store, file = patchstore.open(made), patchstore.RasterFile(made.parent / "s.png")
    windows = [(k, 2 * k, 40 + k) for k in range(-20, 60)]
    expected = file.read(windows, 20)
    wrong: list[int] = []

    def work(part: int) -> None:
        for k in range(part, len(windows), 4):
            images = (store.read([Window("s", *windows[k])], 20)[0], file.read([windows[k]], 20))
            wrong.extend(k for image in images if not np.array_equal(image[0], expected[k]))

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_windows_give_an_empty_batch(made: Path) -> None:
    images, labels = patchstore.open(made).read([], 16)
    assert (images.shape, labels.shape) == ((0, 3, 16, 16), (0, 16, 16))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_it_says_so(made: Path) -> None:
    store = patchstore.open(made)
    pid = os.fork()
    if pid == 0:  # nothing of pytest may run in the child
        code = 1
        try:
            for use in (lambda: whole(store), lambda: store.read([Window("s", 0, 0, 8)], 8), lambda: store.counts("s"),
                        lambda: patchstore.open(made)):
                try:
                    use()
                except StateError:
                    continue
                break
            else:
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert locations.normal("s.zarr") == locations.normal(f"file://{tmp_path}/s.zarr") == str(tmp_path / "s.zarr")
    assert locations.folder("/a/s.zarr", "x/y") == {"driver": "file", "path": "/a/s.zarr/x/y/"}
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    place = locations.folder(locations.normal("s3://b/p/s.zarr/"), "x")
    assert place == {"driver": "s3", "bucket": "b", "path": "p/s.zarr/x/"}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9000")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert locations.folder("s3://b/p", "x") == {"driver": "s3", "bucket": "b", "path": "p/x/",
                                                 "aws_region": "eu-west-1", "endpoint": "http://localhost:9000"}
    assert locations.folder("gs://b/p") == {"driver": "gcs", "bucket": "b", "path": "p/"}


def test_another_cache_needs_no_metadata(store: patchstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from patchstore.store import read

    monkeypatch.setattr(read, "load_scenes", None)
    other = store.with_cache(1 << 20)
    assert other.scenes is store.scenes
    assert (other.cache_bytes, store.cache_bytes) == (1 << 20, 256 << 20)
    window = patchstore.Window(next(iter(store.scenes)), 5, 7, 64)
    for one, two in zip(other.read([window], 64), store.read([window], 64), strict=True):
        np.testing.assert_array_equal(one, two)
