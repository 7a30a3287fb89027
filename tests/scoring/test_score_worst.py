"""The worst blocks of a split: found while it is counted, however its rows come, and drawn."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from patchstore import Store
from swath.config import Config, SplitConfig
from swath.scoring import counting, worst
from swath.scoring.counting import Region
from swath.scoring.worst import WorstBlocks
from swath.splits import division

IGNORE = 255


def seen(most: int, maps: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]], height: int,
         origin: tuple[int, int] = (0, 0)) -> WorstBlocks:
    """What is kept of maps (labels and predictions by scene) that come in pieces of so many rows."""
    watch = WorstBlocks(most, IGNORE)
    for scene, (labels, predictions) in maps.items():
        region = Region(scene=scene, rows=(origin[0], origin[0] + len(labels)),
                        cols=(origin[1], origin[1] + labels.shape[1]))
        for first in range(0, len(labels), height):
            watch(region, origin[0] + first, labels[first:first + height], predictions[first:first + height])
    return watch


@pytest.mark.parametrize("height", [1, 100, 256, 700])
@pytest.mark.parametrize("origin", [(0, 0), (64, 192)])
def test_the_blocks_kept_are_those_of_a_plain_search(height: int, origin: tuple[int, int]) -> None:
    generator = np.random.default_rng(height)
    maps = {}
    for scene in "ab":
        labels = generator.integers(0, 3, (700, 600), dtype=np.uint8)
        hard = np.kron(generator.random((7, 6)), np.ones((100, 100)))
        predictions = np.where(generator.random(labels.shape) < hard, (labels + 1) % 3, labels).astype(np.uint8)
        labels[generator.random(labels.shape) < 0.1] = IGNORE
        maps[scene] = labels, predictions
    expected = []
    for scene, (labels, predictions) in maps.items():
        rows, cols = (np.arange(n) + o for n, o in zip(labels.shape, origin, strict=True))
        wrong = (labels != predictions) & (labels != IGNORE)
        for i in np.unique(rows // 256):
            for j in np.unique(cols // 256):
                part = np.ix_(rows // 256 == i, cols // 256 == j)
                expected.append((int(wrong[part].sum()), scene, int(max(i * 256, origin[0])),
                                 int(max(j * 256, origin[1])), int((labels[part] != IGNORE).sum())))
    expected.sort(key=lambda entry: -entry[0])
    blocks = seen(5, maps, height, origin).blocks
    assert [(b.wrong, b.region.scene, b.region.rows[0], b.region.cols[0], b.labelled) for b in blocks] == expected[:5]
    for block in blocks:
        rows, cols = (slice(first - o, past - o) for (first, past), o in
                      zip((block.region.rows, block.region.cols), origin, strict=True))
        np.testing.assert_array_equal(block.predictions_HW, maps[block.region.scene][1][rows, cols])


def test_of_equals_the_first_stay_and_what_is_right_is_not_kept() -> None:
    labels = np.zeros((256, 1024), np.uint8)
    predictions = labels.copy()
    predictions[:, 256:] = 1
    blocks = seen(2, {"a": (labels, predictions)}, 64).blocks
    assert [block.region.cols[0] for block in blocks] == [256, 512]
    assert not seen(2, {"a": (labels, labels)}, 64).blocks


def test_a_sheet_shows_blocks_of_any_size(store: Store, tmp_path: Path) -> None:
    split = division.divide(store, SplitConfig())

    def source(regions: Sequence[Region]) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        for index, region in enumerate(regions):
            yield index, region.rows[0], np.full(region.shape, 1 if index else counting.NO_PREDICTION, np.uint8)

    watch = WorstBlocks(6, store.ignore)
    counting.evaluate(store, split, "val", source, Config(), watch=watch)
    assert {block.region.shape for block in watch.blocks} >= {(256, 256), (64, 256)}  # scenes are 320 px wide
    worst.draw(store, split, "val", watch.blocks, tmp_path / "worst.png")
    with Image.open(tmp_path / "worst.png") as picture:
        assert picture.size[1] > picture.size[0] > 1000
    with pytest.raises(ValueError, match="a block"):
        worst.draw(store, split, "val", [], tmp_path / "none.png")
