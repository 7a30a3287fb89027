"""The ceiling of a scale: the IoU of a predictor that is right in every pixel of its patches.

A patch at scale 4 has one label for 16 scene pixels, so that thin things are lost however good the network is. Here the
labels of a patch, as `Store.read` gives them, are brought back to full resolution by nearest neighbour and held against
the labels there, which is what the score is taken over. Windows lie edge to edge from the scene's corner; at scales
that are no power of two others give a little other labels. A score's blend of overlapping windows interpolates, and may
do slightly better at a border than the nearest neighbour: the ceiling says what to expect, to about a hundredth.

Legend: S scales, K classes, H, W rows and columns. Only masks are read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchstore import CELL, Store
from patchstore.format import level_shape, locate
from swath.patches.planning import PatchPlan
from swath.scoring import metrics
from swath.scoring.counting import Region, labels_of
from swath.splits.division import Split, SplitName, class_pixels

CEILING_BLOCK_PX = 1024
"""Side of a block that is read at once in pixels, a multiple of CELL: 1 MB of labels, and much of it in one chunk."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ceiling:
    """The best IoU that each scale's labels allow on a split."""

    classes: tuple[str, ...]
    scales: tuple[float, ...]
    counts_SKK: NDArray[np.int64]
    """By scale: row label at full resolution, column the label of the scale brought back there."""
    present_K: NDArray[np.bool_]
    """Classes with labelled pixels in the whole split."""
    megapixels: float
    """Pixels of the blocks that were compared, in millions."""
    of_megapixels: float
    """Pixels of all blocks that have labelled pixels of the split."""

    @property
    def whole(self) -> bool:
        """Whether all of the split was compared; else a sample that is spread evenly over it."""
        return self.megapixels == self.of_megapixels

    def iou(self, scale: int) -> dict[str, float | None]:
        """The highest IoU of each class, for the scale of that index; none for a class without labels in the split,
        or in the sample of it."""
        values = metrics.iou(self.counts_SKK[scale])
        return {name: float(value) if present and np.isfinite(value) else None
                for name, value, present in zip(self.classes, values, self.present_K, strict=True)}

    def mean(self, scale: int) -> float | None:
        """The highest mean IoU, for the scale of that index; none where no label was compared."""
        value = metrics.mean_iou(self.counts_SKK[scale], self.present_K)
        return value if np.isfinite(value) else None

    def to_json(self) -> dict[str, Any]:
        """The ceiling by scale and class, and what it was taken from, as plain values."""
        return {"megapixels": self.megapixels, "of_megapixels": self.of_megapixels, "whole": self.whole,
                "scales": [{"scale": scale, "miou": self.mean(index), "iou": self.iou(index)}
                           for index, scale in enumerate(self.scales)]}


def ceiling(store: Store, split: Split, name: SplitName, plan: PatchPlan, *, most_megapixels: float) -> Ceiling:
    """The ceiling of every scale that a split's plan has labels at, over the split's cells.

    All blocks with labelled pixels where they are `most_megapixels` or less, else some that are spread evenly over
    them, one at the least.
    Raises what Store.region raises.
    """
    every = [block for scene, cells in split.scenes(name) for block in _blocks(
        scene, store.scenes[scene].shape, cells & store.counts(scene).any(axis=2))]
    chosen = _spread(every, most_megapixels)
    counts_SKK = np.zeros((len(plan.placement_scales), len(store.classes), len(store.classes)), np.int64)
    for block in chosen:
        labels_HW = labels_of(store, block.scene, split.cells(block.scene, name), block.rows, block.cols)
        sides_S = plan.side_SC[plan.scenes.index(block.scene), :len(plan.placement_scales)]
        for counts_KK, side in zip(counts_SKK, sides_S.tolist(), strict=True):
            coarse_HW = _brought_back(store, block, plan.size, side)
            counts_KK += compare(labels_HW, coarse_HW, len(store.classes), store.ignore)
    return Ceiling(classes=tuple(info.name for info in store.classes), scales=plan.placement_scales,
                   counts_SKK=counts_SKK,
                   present_K=class_pixels(store, split, name) > 0, megapixels=_megapixels(chosen),
                   of_megapixels=_megapixels(every))


def compare(labels_HW: NDArray[np.uint8], coarse_HW: NDArray[np.uint8], classes: int, ignore: int
            ) -> NDArray[np.int64]:
    """Counts of the labels (row) against those of a coarser scale at the same pixels (column): int64 (K, K).

    Where only the coarser label is ignored a predictor was taught nothing, so what it says there is taken for right.
    """
    return metrics.confusion(labels_HW, np.where(coarse_HW == ignore, labels_HW, coarse_HW), classes, ignore)


def sources(first: int, past: int, length: int, size: int, side: int, level: int) -> NDArray[np.int64]:
    """Whose label the pixels of an axis get that passes through a patch: for each of the full-resolution pixels
    first … past - 1 of a scene of `length`, a pixel of the level that is read. int64 (past - first).

    Windows of `side` pixels lie edge to edge from 0, each is a patch of `size`, whose pixels take the label of the
    nearest centre of the level, as `Store.read` does.
    """
    place = np.arange(first, past, dtype=np.int64)
    window = place // side * side
    patch = (2 * (place - window) + 1) * size // (2 * side)
    in_level = (window >> level) + (2 * patch + 1) * -(-side >> level) // (2 * size)
    return np.minimum(in_level, level_shape((length, length), level)[0] - 1)


def _brought_back(store: Store, block: Region, size: int, side: int) -> NDArray[np.uint8]:
    """The labels of a block as patches of a scale have them, at full resolution: uint8 (rows, cols)."""
    scene = store.scenes[block.scene]
    level = locate(0, 0, side, size, scene.levels).level
    rows_H, cols_W = (sources(*bounds, length, size, side, level)
                      for bounds, length in zip((block.rows, block.cols), scene.shape, strict=True))
    (top, bottom), (left, right) = ((int(places.min()), int(places.max()) + 1) for places in (rows_H, cols_W))
    labels = store.region(block.scene, "mask", (top, bottom), (left, right), level)
    back_HW: NDArray[np.uint8] = labels[np.ix_(rows_H - top, cols_W - left)]
    return back_HW


def _blocks(scene: str, shape: tuple[int, int], cells: NDArray[np.bool_]) -> Iterator[Region]:
    """The blocks of a scene that have some of the cells."""
    each = CEILING_BLOCK_PX // CELL
    padded = np.pad(cells, [(0, -n % each) for n in cells.shape])
    taken = padded.reshape(padded.shape[0] // each, each, -1, each).any(axis=(1, 3))
    for i, j in np.argwhere(taken).tolist():
        yield Region(scene=scene, rows=(i * CEILING_BLOCK_PX, min((i + 1) * CEILING_BLOCK_PX, shape[0])),
                     cols=(j * CEILING_BLOCK_PX, min((j + 1) * CEILING_BLOCK_PX, shape[1])))


def _spread(blocks: Sequence[Region], most_megapixels: float) -> list[Region]:
    """All of the blocks, or so many of them, evenly spread, that they are about `most_megapixels`."""
    share = most_megapixels / max(_megapixels(blocks), 1e-9)
    if share >= 1:
        return list(blocks)
    count = max(1, int(len(blocks) * share))
    return [blocks[(2 * i + 1) * len(blocks) // (2 * count)] for i in range(count)]


def _megapixels(blocks: Sequence[Region]) -> float:
    return sum(block.pixels for block in blocks) / 1e6
