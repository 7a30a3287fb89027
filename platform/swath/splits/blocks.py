"""Spatial blocks: squares of ground that are assigned to a split as a whole.

Blocks lie on the ground and not in each scene. So ten dates of one place, and scenes that overlap, get the same label
for the same ground. Each set of scenes that touch has its own grid: the pixel grid of its coarsest scene (the first by
name among equals). No pixel is lost if the scenes lie on one grid of cells. Legend: R, C rows and columns of cells; Y,
X rows and columns of blocks.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchstore import Scene
from swath.splits.ground import NEGLIGIBLE_PX, Place, by_frame, cell_edges, neighbourhoods


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """The Y x X blocks of a set of scenes that touch, and the blocks that each cell reaches."""

    shape: tuple[int, int]
    own: dict[str, NDArray[np.int64]]
    """For each scene the flat index of the block that contains a cell's centre: int64 (R, C)."""
    reach: dict[str, NDArray[np.int64]]
    """For each scene the blocks that a cell's rectangle touches after growing by half the margin: int64 (4, R, C):
    first row, row after the last, first column, column after the last. A rotated cell counts by its bounding box."""

    def labels(self, label_of_block: NDArray[np.uint8], none: int) -> dict[str, NDArray[np.uint8]]:
        """Labels of cells from labels of blocks (uint8 (Y X)): uint8 (R, C) for each scene.

        A cell gets the label of its own block. If it reaches a block with another label, it gets `none`. A block
        without a label takes the labels of the cells that reach into it. Cells of two labels are therefore at least a
        margin apart, whatever lies between them.
        """
        found = {scene: label_of_block[own_RC] for scene, own_RC in self.own.items()}
        label_YX = label_of_block.reshape(self.shape)
        values = [int(value) for value in np.unique(label_of_block) if value != none]
        of = {value: (label_YX == value) | ((label_YX == none) & self._reached(found, value)) for value in values}
        kept = {scene: label_RC.copy() for scene, label_RC in found.items()}
        for value in values:
            foreign_YX = np.zeros(self.shape, bool)
            for other in values:
                foreign_YX |= of[other] if other != value else False
            table = np.pad(foreign_YX.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
            for scene, label_RC in found.items():
                top, bottom, left, right = self.reach[scene]
                cut_RC = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left] > 0
                kept[scene][cut_RC & (label_RC == value)] = none
        return kept

    def _reached(self, found: dict[str, NDArray[np.uint8]], value: int) -> NDArray[np.bool_]:
        """The blocks that cells with a label reach: bool (Y, X)."""
        change = np.zeros((self.shape[0] + 1, self.shape[1] + 1), np.int64)
        for scene, label_RC in found.items():
            top, bottom, left, right = self.reach[scene][:, label_RC == value]
            for rows, cols, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
                np.add.at(change, (rows, cols), sign)
        reached: NDArray[np.bool_] = change.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
        return reached


def lay(scenes: Iterable[Scene], block: int, margin: int) -> list[Grid]:
    """Lay blocks of `block` pixels over scenes: one grid for each set of scenes that touch or are closer than the
    margin. Both lengths are in pixels of the set's coarsest scene."""
    return [_grid(places, block, margin)
            for frame in by_frame(scenes).values() for places in neighbourhoods(frame, margin)]


def _grid(places: list[Place], block: int, margin: int) -> Grid:
    coarsest = max(there.pixel for there in places)
    base = next(there for there in places if there.pixel > coarsest * (1 - 1e-6))
    to_base = np.linalg.inv(base.matrix_33)
    own, reach = {}, {}
    for there in places:
        low_2RC, high_2RC = _rectangles(to_base @ there.matrix_33, there.scene.shape)
        grow = margin / 2 - NEGLIGIBLE_PX
        own[there.scene.name] = np.floor((low_2RC + high_2RC) / 2 / block).astype(np.int64)
        reach[there.scene.name] = np.stack([np.floor((low_2RC - grow) / block).astype(np.int64),
                                            np.ceil((high_2RC + grow) / block).astype(np.int64)], axis=1)
    first_2 = np.min([blocks[:, 0].min(axis=(1, 2)) for blocks in reach.values()], axis=0)
    shape = np.max([blocks[:, 1].max(axis=(1, 2)) for blocks in reach.values()], axis=0) - first_2
    return Grid(shape=(int(shape[0]), int(shape[1])),
                own={name: (own_2RC[0] - first_2[0]) * shape[1] + own_2RC[1] - first_2[1]
                     for name, own_2RC in own.items()},
                reach={name: (blocks - first_2[:, None, None, None]).reshape(4, *blocks.shape[2:])
                       for name, blocks in reach.items()})


def _rectangles(matrix_33: NDArray[np.float64], shape: tuple[int, int]
                ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounding boxes of a scene's cells in another grid: smallest and largest (row, col), two arrays, float64 (2, R,
    C)."""
    rows, cols = np.meshgrid(cell_edges(shape[0]), cell_edges(shape[1]), indexing="ij")
    x, y = (matrix_33[axis, 0] * cols + matrix_33[axis, 1] * rows + matrix_33[axis, 2] for axis in (0, 1))
    corners = np.stack([np.stack([y, x])[:, i:i + rows.shape[0] - 1, j:j + rows.shape[1] - 1]
                        for i in (0, 1) for j in (0, 1)])
    return corners.min(axis=0), corners.max(axis=0)
