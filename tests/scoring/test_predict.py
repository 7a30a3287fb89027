"""Whole scenes from windows: a network that returns its input returns the scene, whatever its shape."""

import gc
import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchstore import RasterFile
from swath.errors import DataError
from swath.models.inference import network_forward, precision, symmetric
from swath.prediction import streaming
from swath.prediction.readers import ArrayReader, StoreReader
from swath.prediction.streaming import batch_size, classes_of, part, predict_array, stream
from swath.prediction.windows import lattice

OVERLAPS = st.floats(0, 0.9)
SIDES = st.integers(1, 24)
SHAPES = st.tuples(st.integers(1, 60), st.integers(1, 60))


def scene(shape, bands=3, dtype="uint8", seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (bands, *shape))
    return (values / 7 if dtype == "float32" else values).astype(dtype)


def whole(rows, shape, classes, top=0):
    """Put pieces together; each row must come once, in order, without a gap."""
    pieces, expected = [], top
    for row, scores in rows:
        assert row == expected
        assert scores.dtype == torch.float32
        expected += scores.shape[1]
        pieces.append(scores.numpy())
    assert expected == top + shape[0]
    result = np.concatenate(pieces, axis=1)
    assert result.shape == (classes, *shape)
    return result


def blend(reader, forward, *, classes, size, overlap, batch, scale=1, region=None):
    """One scale of a region, by a forward pass that takes images_NBHW."""
    return blend_scales(reader, forward, scales=(scale,), classes=classes, size=size, overlap=overlap, batch=batch,
                        region=region)


def blend_scales(reader, forward, *, scales, classes, size, overlap, batch, region=None):
    """Several scales of a region."""
    of = part(reader, size=size, scales=scales, overlap=overlap, region=region)
    return streaming.blend(of, lambda images: forward(images[:, 0]), classes=classes, batch=batch)


class Ground:
    """A reader at any scale, of a scene whose pixels are a smooth function of their position."""

    bands = 2
    dtype = np.dtype("float32")

    def __init__(self, shape):
        self.shape = shape

    def read(self, windows, size, /):
        images = np.empty((len(windows), 2, size, size), np.float32)
        for image, (row, col, side) in zip(images, windows, strict=True):
            centres = (np.arange(size) + 0.5) * side / size - 0.5
            image[0], image[1] = (row + centres)[:, None], (col + centres)[None]
        return images


@settings(deadline=None, max_examples=80)
@given(SHAPES, SIDES, OVERLAPS, st.integers(1, 5))
def test_the_identity_reproduces_bytes_exactly(shape, size, overlap, batch):
    image = scene(shape)
    scores = predict_array(lambda images: images.astype(np.float32), image, size=size, overlap=overlap, classes=3,
                           batch=batch)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(np.rint(scores).astype(np.uint8), image)


@settings(deadline=None, max_examples=40)
@given(SHAPES, SIDES, OVERLAPS)
def test_the_identity_reproduces_floats_and_classes(shape, size, overlap):
    image = scene(shape, bands=1, dtype="float32")
    again = predict_array(lambda images: images, image, size=size, overlap=overlap, classes=1)
    np.testing.assert_allclose(again, image, rtol=1e-5)

    labels = scene(shape, bands=1)[0] % 5
    one_hot = predict_array(lambda images: np.eye(5, dtype=np.float32)[images[:, 0]].transpose(0, 3, 1, 2),
                            labels[None], size=size, overlap=overlap, classes=5)
    np.testing.assert_array_equal(one_hot.argmax(0), labels)
    np.testing.assert_allclose(one_hot.sum(0), 1, rtol=1e-5)


@pytest.mark.parametrize(("shape", "size"), [((1, 1), 256), ((101, 53), 32), ((1, 211), 16), ((257, 3), 64)])
def test_shapes_that_are_awkward(shape, size):
    image = scene(shape, dtype="uint16")
    seen = []

    def forward(images):
        seen.append(images.dtype)
        return images.astype(np.float32)

    np.testing.assert_array_equal(np.rint(predict_array(forward, image, size=size, classes=3)), image)
    assert set(seen) == {np.dtype("uint16")}, "the network is given the image's own type"


@settings(deadline=None, max_examples=60)
@given(SHAPES, SIDES, OVERLAPS, st.integers(1, 7), st.data())
def test_a_region_has_the_values_that_it_has_in_the_whole(shape, size, overlap, batch, data):
    region = []
    for length in shape:
        first = data.draw(st.integers(0, length - 1))
        region.append((first, data.draw(st.integers(first + 1, length))))
    (top, bottom), (left, right) = region
    settings = {"classes": 1, "size": size, "scale": 1, "overlap": overlap, "batch": batch}

    def forward(images):  # depends on the place in the window, so that another lattice would give other values
        return images.float() + 100 * torch.arange(size).sqrt()

    reader = ArrayReader(scene(shape, bands=1))
    everything = whole(blend(reader, forward, **settings), shape, 1)
    part = whole(blend(reader, forward, region=tuple(region), **settings), (bottom - top, right - left), 1, top)
    np.testing.assert_allclose(part, everything[:, top:bottom, left:right], rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.tuples(st.integers(1, 150), st.integers(1, 60)),
       st.sampled_from([(8, (1,)), (12, (2, 1)), (16, (4,)), (8, (3, 0.5))]), OVERLAPS, st.integers(1, 7), st.data())
def test_rows_have_the_same_bytes_however_the_work_is_cut(shape, patches, overlap, batch, data):
    """Also where what the network gives depends on the whole batch: batches are the region's, whoever works on it."""
    size, scales = patches
    cuts = sorted({0, shape[0], *data.draw(st.lists(st.integers(0, shape[0]), max_size=3))})
    seen = []

    def forward(images):
        seen.append(images.shape)
        return images[:, 0] + 3 * images.mean() + torch.arange(size).sqrt()

    def rows(wanted=None):
        of = part(Ground(shape), size=size, scales=scales, overlap=overlap, rows=wanted)
        return whole(streaming.blend(of, forward, classes=2, batch=batch),
                     (shape[0] if wanted is None else wanted[1] - wanted[0], shape[1]), 2, wanted[0] if wanted else 0)

    everything = rows()
    once = len(seen)
    pieces = [rows(pair) for pair in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), everything)
    assert len(pieces) > 1 or len(seen) == 2 * once


def test_a_coarse_scale_is_blended_in_its_own_pixels():
    """Against windows upsampled one by one and blended at full resolution: the same but where a window's edge bends."""
    shape, size, scale = (150, 97), 16, 4
    windows = lattice(shape, size * scale, 0.5, size)
    sums = np.zeros((windows.rows.length, windows.cols.length))
    weights = np.zeros_like(sums)
    for i, row in enumerate(windows.rows.starts):
        for j, col in enumerate(windows.cols.starts):
            image = Ground(shape).read([(row * 4, col * 4, 64)], size)[0, 0].astype(float)
            weight = np.outer(windows.rows.weights(i), windows.cols.weights(j))
            square = np.s_[row:row + size, col:col + size]
            inside = sums[square].shape
            sums[square] += ((image**2 / 100) * weight)[:inside[0], :inside[1]]
            weights[square] += weight[:inside[0], :inside[1]]
    np.testing.assert_allclose(weights, 1, rtol=1e-5)
    expected = torch.nn.functional.interpolate(torch.from_numpy(sums)[None, None], scale_factor=4, mode="bilinear")
    scores = whole(blend(Ground(shape), lambda x: x[:, :1]**2 / 100, classes=1, size=size, scale=scale, overlap=0.5,
                         batch=3), shape, 1)
    np.testing.assert_allclose(scores[0], expected[0, 0, :shape[0], :shape[1]], rtol=1e-5, atol=1e-4)


def test_a_batch_goes_on_in_the_next_part_not_the_next_lot():
    readers = [ArrayReader(scene(shape, seed=n)) for n, shape in enumerate([(20, 9), (8, 8), (30, 11)])]
    parts = [part(reader, size=8, scales=(1,), overlap=0) for reader in readers]
    sizes = []

    def forward(images):
        sizes.append(len(images))
        return images[:, 0].float()

    def run(lots):
        sizes.clear()
        found = {id(of): [] for of in parts}
        for of, row, scores in stream(lots, forward, classes=3, batch=4):
            found[id(of)].append((row, scores))
        for reader, of in zip(readers, parts, strict=True):
            np.testing.assert_array_equal(np.rint(whole(found[id(of)], reader.shape, 3)), reader.image_BHW)

    run([parts])
    assert sizes == [4, 4, 4, 3]
    run([[of] for of in parts])
    assert sizes == [4, 2, 1, 4, 4]


def test_several_scales_can_be_seen_at_once():
    """Detail and context have the same centre; the result lies where the detail does."""
    shape, seen = (70, 45), []

    def forward(images):
        seen.append(images.shape[1:])
        middle = images[..., 7:9, 7:9].mean((-1, -2))  # of each scale and band
        torch.testing.assert_close(middle, middle[:, :1].expand_as(middle), atol=0.51, rtol=0)
        return images[:, 0]

    of = part(Ground(shape), size=16, scales=(1, 2, 4), overlap=0.5, is_concentric=True)
    scores = whole(streaming.blend(of, forward, classes=2, batch=3), shape, 2)
    assert set(seen) == {(3, 2, 16, 16)}
    expected = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_windows_of_1000_px_at_three_scales_over_a_drone_photo():
    """6,000 x 4,000 px, windows of 1,000, 2,000 and 4,000 px of ground as patches of 512, half overlapping."""
    shape, scales = (4000, 6000), tuple(1000 * scale / 512 for scale in (1, 2, 4))
    of = part(Ground(shape), size=512, scales=scales, overlap=0.5)
    assert of.sides == (1000, 2000, 4000)
    assert [(windows.grid, windows.rows.side) for windows in of.lattices] == [(1, 1000), (2, 1000), (4, 1000)]
    counts = [[len(each) for each in windows.touching(of.region)] for windows in of.lattices]
    assert counts == [[7, 11], [3, 5], [1, 2]]
    worst, past = 0.0, 0
    for row, scores in streaming.blend(of, lambda images: images[:, 0], classes=2, batch=4):
        assert row == past
        past += scores.shape[1]
        rows, cols = np.meshgrid(np.arange(row, past), np.arange(shape[1]), indexing="ij")
        inner = (slice(0 if row else 8, -8 if past == shape[0] else None), slice(8, -8))
        worst = max(worst, *(np.abs(found.numpy()[inner] - wanted[inner]).max(initial=0)
                             for found, wanted in zip(scores, (rows, cols), strict=True)))
    assert past == shape[0]
    assert worst < 0.05


def test_eight_symmetries_turn_and_mirror_with_the_scene():
    torch.manual_seed(0)
    kernel = torch.randn(2, 3, 3, 3)

    def forward(images):
        return torch.nn.functional.conv2d(images[:, 0], kernel, padding=1)

    images = torch.rand(2, 1, 3, 10, 10)
    mean = symmetric(forward)
    assert not torch.allclose(forward(images.flip(-1)), forward(images).flip(-1), atol=1e-3)
    for turns in range(4):
        for change in (lambda x, k=turns: x.rot90(k, (-2, -1)), lambda x, k=turns: x.flip(-1).rot90(k, (-2, -1))):
            torch.testing.assert_close(mean(change(images)), change(mean(images)))


def test_float32_holds_where_thousands_of_windows_overlap():
    image = scene((100, 70), bands=1, dtype="float32")
    again = predict_array(lambda images: images, image, size=48, overlap=0.99, classes=1, batch=64)
    np.testing.assert_allclose(again, image, rtol=2e-6)


def test_the_mirror_has_the_edge_twice_however_far_it_goes():
    reader = ArrayReader(np.array([[[1, 2, 3]]], np.uint8))
    row = reader.read([(0, -4, 12)], 12)[0, 0, 0]
    assert row.tolist() == [3, 3, 2, 1, 1, 2, 3, 3, 2, 1, 1, 2]
    with pytest.raises(ValueError, match="scale 1"):
        reader.read([(0, 0, 8)], 4)


def test_a_store_is_asked_for_windows_of_the_scene():
    image, asked = scene((20, 30)), []

    def read(windows, size):
        asked.extend(windows)
        return ArrayReader(image).read([(w.row, w.col, w.side) for w in windows], size), None

    store = SimpleNamespace(bands=3, dtype=image.dtype, scenes={"east": SimpleNamespace(shape=(20, 30))}, read=read)
    reader = StoreReader(store, "east")
    rows = blend(reader, lambda x: x.float(), classes=reader.bands, size=16, scale=1, overlap=0.5, batch=4)
    np.testing.assert_array_equal(np.rint(whole(rows, (20, 30), 3)), image)
    assert {w.scene for w in asked} == {"east"}
    assert [(w.row, w.col, w.side) for w in asked] == [(r, c, 16) for r in (0, 4) for c in (0, 8, 14)]


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_raster_file_is_a_reader(tmp_path, scale):
    ramp = np.add.outer(np.arange(90), np.arange(70)).astype(np.uint8)
    with rasterio.open(tmp_path / "scene.tif", "w", driver="GTiff", height=90, width=70, count=1, dtype="uint8",
                       transform=rasterio.Affine(0.5, 0, 0, 0, -0.5, 0)) as raster:
        raster.write(ramp, 1)
    rows = blend(RasterFile(tmp_path / "scene.tif"), lambda x: x.float(), classes=1, size=16, scale=scale, overlap=0.5,
                 batch=4)
    error = np.abs(whole(rows, (90, 70), 1)[0] - ramp)
    # Coarser pixels are means, rounded to bytes; they are mirrored at the edge, where a ramp turns.
    assert error[4:-4, 4:-4].max() <= (0.01 if scale == 1 else 2.5)


@pytest.mark.parametrize("scale", [0.125, 0.5, 0.75, 1, 1.5, 2, 4])
def test_finer_and_coarser_scales_stay_aligned_with_the_ground(scale):
    """Away from a window's outermost half pixel, bilinear upsampling of a ramp is exact: no shift, at any scale."""
    shape = (150, 97)
    scores = whole(blend(Ground(shape), lambda x: x, classes=2, size=32, scale=scale, overlap=0.5, batch=3), shape, 2)
    inner = np.s_[4:-4, 4:-4]
    error = np.abs(scores - np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")))
    assert error[0][inner].max() < 0.02
    assert error[1][inner].max() < 0.02


def test_several_scales_are_averaged_row_by_row():
    shape, region = (141, 60), ((13, 120), (5, 44))
    settings = {"classes": 2, "size": 16, "overlap": 0.25, "batch": 4, "region": region}
    scales = (1, 2.5, 4)

    def forward(images):
        return images * torch.linspace(0.9, 1.1, 16)

    merged = whole(blend_scales(Ground(shape), forward, scales=scales, **settings), (107, 39), 2, 13)
    singles = [whole(blend(Ground(shape), forward, scale=s, **settings), (107, 39), 2, 13) for s in scales]
    np.testing.assert_allclose(merged, np.mean(singles, axis=0), rtol=1e-5)
    assert not np.allclose(singles[0], singles[2])


def test_memory_does_not_grow_with_the_height():
    def most_held(rows):
        """Most bytes in tensors at once, seen whenever a piece is handed out; a piece is dropped at once."""
        pieces = blend(Ground((rows, 20)), lambda x: x, classes=2, size=16, scale=1, overlap=0.5, batch=3)
        return max(sum(thing.untyped_storage().nbytes() for thing in gc.get_objects() if type(thing) is torch.Tensor)
                   for number, _ in enumerate(pieces) if number % (rows // 80) == 0)

    assert most_held(800) <= most_held(160)


def test_a_piece_keeps_no_larger_buffer_alive():
    pieces = list(blend(Ground((100, 20)), lambda x: x, classes=2, size=16, scale=1, overlap=0.5, batch=3))
    assert sum(scores.untyped_storage().nbytes() for _, scores in pieces) == 2 * 100 * 20 * 4


def test_reading_runs_two_batches_ahead_and_no_further():
    reader, reads, worked = ArrayReader(scene((64, 64))), [], []

    class Watched(ArrayReader):
        def read(self, windows, size, /):
            reads.append(threading.current_thread())
            return reader.read(windows, size)

    def forward(images):
        worked.append(len(images))
        assert len(reads) <= len(worked) + 2
        return images.float()

    for _ in blend(Watched(reader.image_BHW), forward, classes=3, size=16, scale=1, overlap=0, batch=3):
        pass
    assert worked == [3, 3, 3, 3, 3, 1]
    assert len(set(reads)) == 1
    assert reads[0] is not threading.current_thread()


@pytest.mark.parametrize("scales", [(1,), (1, 1.5)])
def test_stopping_early_leaves_no_thread(scales):
    before = threading.active_count()
    for _ in blend_scales(Ground((500, 20)), lambda x: x, scales=scales, classes=2, size=16, overlap=0.5, batch=1):
        assert threading.active_count() == before + 1
        break
    assert threading.active_count() == before


def test_a_failure_of_the_reader_or_the_network_is_passed_on():
    class Broken(ArrayReader):
        def read(self, windows, size, /):
            if windows[0][0] > 100:
                raise OSError("chunk 3 is damaged")
            return super().read(windows, size)

    before = threading.active_count()
    settings = {"classes": 3, "size": 16, "scale": 1, "overlap": 0.5, "batch": 2}
    with pytest.raises(OSError, match="chunk 3 is damaged"):
        list(blend(Broken(scene((300, 20))), lambda x: x.float(), **settings))
    with pytest.raises(ValueError, match=r"scores of \(2, 1, 16, 16\), expected \(2, 3, 16, 16\)"):
        list(blend(ArrayReader(scene((300, 20))), lambda x: x[:, :1].float(), **settings))
    assert threading.active_count() == before


@pytest.mark.parametrize(("change", "said"), [
    ({"region": ((0, 11), (0, 10))}, "must have a pixel and lie in the scene"),
    ({"region": ((3, 3), (0, 10))}, "must have a pixel and lie in the scene"),
    ({"batch": 0}, "must be 1 or more"),
    ({"scale": 0.1}, "must be 1 or more"),
    ({"overlap": 1}, "below 1"),
])
def test_settings_that_make_no_sense_are_refused_at_once(change, said):
    settings = {"classes": 3, "size": 4, "scale": 1, "overlap": 0.5, "batch": 2} | change
    with pytest.raises(ValueError, match=said):
        blend(ArrayReader(scene((10, 10))), lambda x: x.float(), **settings)


class Small(torch.nn.Module):
    """Three logits from three bands, by a fixed matrix; batch normalisation makes the mode matter."""

    def __init__(self):
        super().__init__()
        self.mix, self.norm = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)
        with torch.no_grad():
            self.mix.weight.copy_(torch.tensor([[1, 0, 0], [0, 1, 0], [0.5, 0, 1]])[:, :, None, None])

    def forward(self, images_NSBHW):
        assert images_NSBHW.shape[1] == 1
        return self.norm(self.mix(images_NSBHW[:, 0].float() / 255))


@pytest.mark.parametrize(("arithmetic", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_a_network_gives_its_logits(arithmetic, tolerance):
    net, image = Small().eval(), scene((40, 23))
    of = part(ArrayReader(image), size=16, scales=(1,), overlap=0.5)
    logits = whole(streaming.blend(of, network_forward(net, arithmetic), classes=3, batch=4), (40, 23), 3)
    with torch.no_grad():
        expected = net(torch.from_numpy(image)[None, None])[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=tolerance)


def test_arithmetic_and_batch_follow_from_device_and_size():
    assert [precision(wanted, torch.device("cpu")) for wanted in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]
    assert [batch_size(size) for size in (128, 256, 1024, 4096)] == [64, 16, 1, 1]


def test_a_network_in_training_mode_is_refused():
    of = part(ArrayReader(scene((8, 8))), size=8, scales=(1,), overlap=0)
    rows = streaming.blend(of, network_forward(Small()), classes=3, batch=1)
    with pytest.raises(ValueError, match=r"net\.eval"):
        next(rows)


def test_classes_are_those_of_the_highest_score():
    scores = torch.tensor([[[0.1, 0.7]], [[0.9, 0.3]]])
    (row, classes), = classes_of([(5, scores)])
    assert row == 5
    assert classes.dtype == np.uint8
    assert classes.tolist() == [[1, 0]]
    scores[0, 0, 0] = torch.nan
    with pytest.raises(DataError, match=r"rows 5 to 5: .* not finite"):
        list(classes_of([(5, scores)]))
