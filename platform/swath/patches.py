"""The plan: which patches exist, and with what weight each is drawn.

Pure: it reads the counts of classes by 64 px cell, and no pixel. Positions are full-resolution scene pixels; a patch
of `size` pixels at scale s spans a window of round(size * s) of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchstore import CELL, Store, Window
from swath.blend import starts
from swath.config import Config, PatchesConfig
from swath.errors import DataError
from swath.split import Split, SplitName, divide


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchPlan:
    """The patches of a split; arrays are over patches (P)."""

    size: int
    scales: tuple[float, ...]
    scenes: tuple[str, ...]
    scene_P: NDArray[np.int32]
    row_P: NDArray[np.int32]
    col_P: NDArray[np.int32]
    scale_P: NDArray[np.int32]
    weight_P: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scene_P)

    def windows(self, ids: Sequence[int] | NDArray[np.int64]) -> list[Window]:
        """The ground of patches: one window for each id."""
        return [
            Window(self.scenes[self.scene_P[i]], int(self.row_P[i]), int(self.col_P[i]),
                   side(self.size, self.scales[self.scale_P[i]]))
            for i in ids
        ]

    @property
    def megapixels(self) -> float:
        """Patch pixels of one epoch, in millions."""
        return len(self) * self.size**2 / 1e6


def side(size: int, scale: float) -> int:
    """Side of the window of a patch, in full-resolution scene pixels."""
    return round(size * scale)


def plan(store: Store, config: Config, split: SplitName, *, labels: Split | None = None) -> PatchPlan:
    """The patches of a split, of every scale of the configuration.

    A patch belongs to a split when its whole window, as far as it lies in the scene, is in cells of that split, and
    it has labelled pixels. For train, patches below `patches.min_foreground` are left out; the share is exact for
    windows on the 64 px grid and an area-weighted estimate from the cells elsewhere.

    Raises DataError when no patch is left, or a background class does not exist.
    """
    labels = labels or divide(store, config.split)
    foreground_K = _foreground(store, config.patches)
    least = config.patches.min_foreground if split == "train" else 0.0
    scenes = list(labels.scenes(split))
    parts = [
        _scene_patches(number, index, store.scenes[scene].shape, cells, store.counts(scene), config.patches,
                       foreground_K, least)
        for number, (scene, cells) in enumerate(scenes)
        for index in range(len(config.patches.scales))
    ]
    patches_P4 = np.concatenate(parts) if parts else np.empty((0, 4), np.int32)
    if len(patches_P4) == 0:
        raise DataError(
            f"{store.uri}: no {split} patch of {config.patches.size} px at scale "
            f"{', '.join(f'{s:g}' for s in config.patches.scales)} lies in the {split} cells and has enough labels; "
            f"use a smaller patches.size, patches.scales or patches.min_foreground")
    scene_P, row_P, col_P, scale_P = patches_P4.T.copy()
    return PatchPlan(size=config.patches.size, scales=config.patches.scales, scenes=tuple(s for s, _ in scenes),
                     scene_P=scene_P, row_P=row_P, col_P=col_P, scale_P=scale_P, weight_P=np.ones(len(scene_P)))


def _foreground(store: Store, config: PatchesConfig) -> NDArray[np.bool_]:
    names = [info.name for info in store.classes]
    if unknown := set(config.background) - set(names):
        raise DataError(f"patches.background: no class {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    return np.array([name not in config.background for name in names])


def _scene_patches(number: int, scale_index: int, shape: tuple[int, int], cells: NDArray[np.bool_],
                   counts: NDArray[np.int64], config: PatchesConfig, foreground_K: NDArray[np.bool_],
                   least: float) -> NDArray[np.int32]:
    """The patches of one scene at one scale, as rows of (scene number, row, col, scale index)."""
    scale = config.scales[scale_index]
    window = side(config.size, scale)
    stride = max(1, round(config.step * scale))
    rows, cols = starts(shape[0], window, stride), starts(shape[1], window, stride)
    row_spans = np.stack([rows, np.minimum(rows + window, shape[0])])
    col_spans = np.stack([cols, np.minimum(cols + window, shape[1])])

    foreign = _box_sums((~cells).astype(np.float64), np.stack([row_spans[0] // CELL, -(-row_spans[1] // CELL)]),
                        np.stack([col_spans[0] // CELL, -(-col_spans[1] // CELL)]))
    row_cells, col_cells = _in_cells(row_spans, shape[0]), _in_cells(col_spans, shape[1])
    labelled = _box_sums(counts.sum(axis=2).astype(np.float64), row_cells, col_cells)
    keep = (foreign < 0.5) & (labelled > 0.5)  # sums of whole numbers, by way of differences of floats
    if least > 0:
        foreground = _box_sums(counts[..., foreground_K].sum(axis=2).astype(np.float64), row_cells, col_cells)
        keep &= foreground >= least * labelled - 1e-6
    at_row, at_col = np.nonzero(keep)
    count = len(at_row)
    return np.stack([np.full(count, number), rows[at_row], cols[at_col], np.full(count, scale_index)],
                    axis=1).astype(np.int32)


def _in_cells(spans_px: NDArray[np.int64], length: int) -> NDArray[np.float64]:
    """Pixel positions along an axis as fractional cell positions; the last cell may be narrower than the others."""
    edges = np.minimum(np.arange(-(-length // CELL) + 1) * CELL, length)
    return np.interp(spans_px, edges, np.arange(len(edges)))


def _box_sums(values_HW: NDArray[np.float64], rows_2R: NDArray[np.float64] | NDArray[np.int64],
              cols_2C: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over every box rows_2R[:, i] x cols_2C[:, j]; a cell that is cut counts by its share: float64 (R, C)."""
    table = np.pad(values_HW.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    by_row = _between(table, np.asarray(rows_2R, np.float64))
    return _between(by_row.T, np.asarray(cols_2C, np.float64)).T


def _between(table: NDArray[np.float64], spans_2N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences of a running total along the first axis between two fractional positions: float64 (N, …)."""
    low = np.minimum(np.floor(spans_2N).astype(np.int64), len(table) - 2)
    share = (spans_2N - low)[..., None]
    at: NDArray[np.float64] = table[low] * (1 - share) + table[low + 1] * share
    difference: NDArray[np.float64] = at[1] - at[0]
    return difference
