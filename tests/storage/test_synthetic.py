"""The generator of synthetic scenes: pure, seamless, plausible in its classes, and written within bounded memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from patchstore.testing import landscape, scenes

WHOLE = ((-700, -60), (300, 1090))  # over the corner of four tiles, in negative rows


@pytest.fixture(scope="module")
def whole() -> tuple[np.ndarray, np.ndarray]:
    return scenes.render(5, *WHOLE)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_piece_is_equal_to_its_part_of_the_whole(whole, data):
    image_BHW, mask_HW = whole
    ranges = []
    for first, end in WHOLE:
        start = data.draw(st.integers(first, end - 1))
        ranges.append((start, data.draw(st.integers(start + 1, min(end, start + 90)))))
    (top, bottom), (left, right) = (np.subtract(piece, first) for piece, (first, _) in zip(ranges, WHOLE))
    part = np.s_[top:bottom, left:right]
    image, mask = scenes.render(5, *ranges)
    assert np.array_equal(image, image_BHW[:, *part])
    assert np.array_equal(mask, mask_HW[part])


@pytest.mark.parametrize("seed", [0, 3, 9])
def test_tiles_join_without_a_seam(seed):
    """What is computed at once straight over the corner of four tiles is what the four tiles show there."""
    for row, col in ((512, 512), (-512, 16384 * 5)):  # the second far out, where float32 is coarse
        image, mask = landscape._tile(seed, row - 256, col - 256, 512)
        tiles_image, tiles_mask = scenes.render(seed, (row - 256, row + 256), (col - 256, col + 256))
        assert np.mean(mask != tiles_mask) < 1e-4
        off = np.abs(image.astype(int) - tiles_image)
        assert np.mean(off > 1) < 1e-4  # rounding may move a furrow by a hair, or a pixel to another material
        assert off.mean() < 0.01


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_every_class_is_there_and_buildings_are_rare(seed):
    _, mask_HW = scenes.render(seed, (0, 1024), (0, 1024))
    share = np.bincount(mask_HW.ravel(), minlength=len(scenes.CLASSES)) / mask_HW.size
    assert share.size == 5
    assert (share > 0).all()
    assert 0.003 < share[1] < 0.02
    assert 0.01 < share[4] < 0.1
    assert share[0] == share.max() or share[2] == share.max()


def test_colour_alone_does_not_tell_the_classes():
    """A classifier of single pixels (nearest class mean) fails on a good part of the ground, but is no mere guess."""
    image_BHW, mask_HW = scenes.render(1, (0, 1024), (0, 1024))
    pixels, labels = image_BHW.reshape(3, -1).T.astype(float), mask_HW.ravel()
    means = np.stack([pixels[labels == k].mean(0) for k in range(5)])
    guess = ((pixels[:, None] - means) ** 2).sum(-1).argmin(1)
    recall = np.mean([(guess[labels == k] == k).mean() for k in range(5)])
    assert 0.3 < recall < 0.9


def test_seeds_make_landscapes():
    first, again, other = (scenes.render(seed, (0, 64), (0, 64))[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.mean(first != other) > 0.8


def test_a_scene_lies_where_it_was_put_and_shows_that_ground(tmp_path):
    origin = (scenes.ORIGIN_M[0] + 100.5, scenes.ORIGIN_M[1] - 30.25)
    paths = tmp_path / "image.tif", tmp_path / "mask.tif"
    scenes.write_scene(*paths, seed=4, shape=(600, 333), origin_m=origin)
    image_BHW, mask_HW = scenes.render(4, (121, 721), (402, 735))
    with rasterio.open(paths[0]) as image, rasterio.open(paths[1]) as mask:
        assert image.crs == mask.crs == rasterio.CRS.from_string(scenes.CRS)
        assert tuple(image.transform)[:6] == tuple(mask.transform)[:6] == (0.25, 0, origin[0], 0, -0.25, origin[1])
        assert image.block_shapes[0] == (256, 256)
        assert np.array_equal(image.read(), image_BHW)
        assert np.array_equal(mask.read(1), mask_HW)
        for k, text in enumerate(scenes.CLASSES):
            assert "#{:02X}{:02X}{:02X}".format(*mask.colormap(1)[k][:3]) == text.split("=")[1]
    first = [path.read_bytes() for path in paths]
    scenes.write_scene(*paths, seed=4, shape=(600, 333), origin_m=origin)
    assert first == [path.read_bytes() for path in paths]


@pytest.mark.parametrize(("shape", "origin", "match"), [((0, 5), scenes.ORIGIN_M, "shape"),
                                                        ((5, 5), (500_000.1, 5_800_000.0), "whole pixels")])
def test_bad_input_is_refused_and_leaves_nothing(tmp_path, shape, origin, match):
    with pytest.raises(ValueError, match=match):
        scenes.write_scene(tmp_path / "i.tif", tmp_path / "m.tif", seed=0, shape=shape, origin_m=origin)
    assert list(tmp_path.iterdir()) == []


def test_a_generator_that_dies_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    render, calls = scenes.render, []

    def dies(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        assert not list(tmp_path.glob("*.tif"))
        return render(*args)

    monkeypatch.setattr(scenes, "render", dies)
    with pytest.raises(KeyboardInterrupt):
        scenes.write_scene(tmp_path / "i.tif", tmp_path / "m.tif", seed=0, shape=(700, 40))
    assert list(tmp_path.iterdir()) == []


def bounds(folder: Path) -> dict[str, rasterio.coords.BoundingBox]:
    found = {}
    for path in sorted(folder.glob("images/*.tif")):
        with rasterio.open(path) as image, rasterio.open(folder / "masks" / path.name) as mask:
            assert image.bounds == mask.bounds
            found[path.stem] = image.bounds
    return found


def test_scenes_of_a_group_adjoin_and_groups_lie_apart(tmp_path):
    scenes.make_dataset(tmp_path, scenes=5, size=96, seed=2, groups=2)
    box = bounds(tmp_path)
    assert list(box) == ["g0_s0", "g0_s1", "g0_s2", "g1_s0", "g1_s1"]
    assert box["g0_s0"].right == box["g0_s1"].left
    assert box["g0_s0"].bottom == box["g0_s2"].top
    assert box["g1_s0"].right == box["g1_s1"].left
    assert box["g1_s0"].left - box["g0_s1"].right >= 4000
    parts = [rasterio.open(tmp_path / "images" / f"g0_s{k}.tif").read() for k in (0, 1)]
    assert np.array_equal(np.concatenate(parts, axis=2), scenes.render(2, (0, 96), (0, 192))[0])


def test_scenes_without_groups_are_all_apart(tmp_path):
    scenes.make_dataset(tmp_path, scenes=3, size=16)
    boxes = list(bounds(tmp_path).values())
    for k, a in enumerate(boxes):
        for b in boxes[:k]:
            assert max(abs(a.left - b.left), abs(a.top - b.top)) > 4000
    with pytest.raises(ValueError, match="groups"):
        scenes.make_dataset(tmp_path, scenes=2, size=16, groups=3)


def test_memory_does_not_grow_with_the_rows(tmp_path):
    scenes.render(0, (0, 16), (0, 16))  # tables and imports
    peaks = []
    for rows in (1024, 3072):
        tracemalloc.start()
        scenes.write_scene(tmp_path / "i.tif", tmp_path / "m.tif", seed=0, shape=(rows, 1024))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
