"""The worst blocks of a split: those with most wrong pixels, kept while it is counted, and drawn.

Memory is that of one row of blocks and of the predictions of those kept.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchstore import Store
from swath import figures
from swath.scoring import counting
from swath.scoring.counting import NO_PREDICTION, SAMPLE_BLOCK_PX, Region
from swath.splits.division import Split, SplitName


@dataclass(frozen=True, kw_only=True, eq=False)
class WorstBlock:
    """A block of a scene, and what was predicted there."""

    region: Region
    wrong: int
    """Pixels that are not their label's class."""
    labelled: int
    """Pixels that have a label."""
    predictions_HW: NDArray[np.uint8]
    """NO_PREDICTION where there is no prediction."""


class WorstBlocks:
    """Watches a count, and keeps the blocks of 256 px that have most wrong pixels; of equals, those that came first."""

    def __init__(self, most: int, ignore: int) -> None:
        self._most, self._ignore = most, ignore
        self._heap: list[tuple[int, int, WorstBlock]] = []
        self._seen = 0  # blocks so far: the order among equals
        self._rows: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []

    def __call__(self, region: Region, row: int, labels_hW: NDArray[np.uint8], predictions_hW: NDArray[np.uint8]
                 ) -> None:
        """See the next rows of a region. Pixels whose label is the ignored one are not wrong."""
        end = row + len(labels_hW)
        borders = [row, *range((row // SAMPLE_BLOCK_PX + 1) * SAMPLE_BLOCK_PX, end, SAMPLE_BLOCK_PX), end]
        for first, past in pairwise(borders):
            part = slice(first - row, past - row)
            self._rows.append((labels_hW[part], predictions_hW[part]))
            if past % SAMPLE_BLOCK_PX == 0 or past == region.rows[1]:
                labels, predictions = (np.concatenate(parts) for parts in zip(*self._rows, strict=True))
                self._rate(region, past - len(labels), labels, predictions)
                self._rows.clear()

    @property
    def blocks(self) -> list[WorstBlock]:
        """The worst blocks, the worst first."""
        return [block for *_, block in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]

    def _rate(self, region: Region, top: int, labels_hW: NDArray[np.uint8], predictions_hW: NDArray[np.uint8]) -> None:
        """Look at a row of blocks."""
        left, right = region.cols
        inner = range((left // SAMPLE_BLOCK_PX + 1) * SAMPLE_BLOCK_PX, right, SAMPLE_BLOCK_PX)
        borders = np.array([left, *inner, right])
        valid_hW = labels_hW != self._ignore
        wrong_hW = valid_hW & (labels_hW != predictions_hW)
        wrong_b, labelled_b = (np.add.reduceat(pixels.sum(axis=0), borders[:-1] - left) for pixels in
                               (wrong_hW, valid_hW))
        for place in np.flatnonzero(wrong_b).tolist():
            self._seen += 1
            rank = int(wrong_b[place]), -self._seen
            if len(self._heap) == self._most and rank < self._heap[0][:2]:
                continue
            cols = int(borders[place]), int(borders[place + 1])
            block = WorstBlock(
                region=Region(scene=region.scene, rows=(top, top + len(labels_hW)), cols=cols), wrong=rank[0],
                labelled=int(labelled_b[place]), predictions_HW=predictions_hW[:, cols[0] - left:cols[1] - left].copy())
            (heapq.heappush if len(self._heap) < self._most else heapq.heapreplace)(self._heap, (*rank, block))


def draw(store: Store, split: Split, name: SplitName, blocks: Sequence[WorstBlock], path: Path) -> None:
    """Draw image, label, prediction and errors of each block as one PNG. Blocks at a scene's edge are filled up to
    256 px with what shows as ignored; so is what has no prediction."""
    if not blocks:
        raise ValueError("a sheet needs a block at least")
    images, labels, predictions = [], [], []
    for block in blocks:
        region = block.region
        pad = [(0, SAMPLE_BLOCK_PX - length) for length in region.shape]
        images.append(np.pad(store.region(region.scene, "image", region.rows, region.cols), [(0, 0), *pad],
                             mode="edge"))
        found = counting.labels_of(store, region.scene, split.cells(region.scene, name), region.rows, region.cols)
        labels.append(np.pad(found, pad, constant_values=store.ignore))
        predictions.append(np.pad(block.predictions_HW, pad, constant_values=NO_PREDICTION))
    figures.sheet(
        np.stack(images), np.stack(labels), np.stack(predictions), [c.colour for c in store.classes],
        names=[c.name for c in store.classes], ignore=store.ignore, path=path,
        titles=[f"{b.region.scene} row {b.region.rows[0]} col {b.region.cols[0]}" for b in blocks])
