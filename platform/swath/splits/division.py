"""Splits: a label (train, val, test or none) for each 64 x 64 cell of each scene.

Every kind of split ends as such labels, so one plan and one score serve all kinds. Units (groups, scenes, tiles or
spatial blocks) are assigned to splits by name or automatically, and each cell gets the label of its unit. Legend: U
units, K classes, S splits; R, C rows and columns of cells.
"""

import difflib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patchstore import CELL, Scene, Store
from swath.config import SplitConfig
from swath.errors import DataError
from swath.splits.apportion import apportion, draw
from swath.splits.blocks import Grid, lay
from swath.splits.ground import cell_shape

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
_MUCH_LOST_SHARE = 0.1
"""If the margin leaves more than this share of labelled pixels in no split, messages name the margin as the cause."""
_WIDER = "use a smaller split.margin or a larger split.block"
NONE = 255
"""Label of a cell that is in no split. The other labels are indices of SPLITS."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The label of each cell: `labels[scene]` is uint8 (cell row, cell column)."""

    labels: dict[str, NDArray[np.uint8]]
    notes: tuple[str, ...] = ()
    """Remarks for the user, one sentence each: shares that were missed, classes that a split lacks, ground in no split.
    """

    def cells(self, scene: str, name: SplitName) -> NDArray[np.bool_]:
        """Which cells of a scene belong to a split: bool (cell row, cell column)."""
        return np.equal(self.labels[scene], SPLITS.index(name))

    def scenes(self, name: SplitName) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """The scenes that have cells in a split, in order of their names, with the mask of those cells."""
        for scene in sorted(self.labels):
            cells = self.cells(scene, name)
            if cells.any():
                yield scene, cells

    def digest(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of all labels."""
        total = hashlib.sha256()
        for scene, labels in sorted(self.labels.items()):
            total.update(f"{scene} {labels.shape}".encode() + labels.tobytes())
        return total.hexdigest()[:12]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Units:
    """The units that are never divided."""

    kind: str
    of_cell: dict[str, NDArray[np.int64]]
    """For each scene with a mask, the unit of each cell: int64 (R, C)."""
    count: int
    numbers: dict[str, int] = field(default_factory=dict)
    """The unit of each name. Blocks have no names."""
    unlabelled: frozenset[str] = frozenset()
    """Names of units that have no mask."""
    grids: tuple[tuple[int, Grid], ...] = ()
    """For blocks: each grid, with the number of its first block."""


def divide(store: Store, config: SplitConfig) -> Split:
    """Label the cells of all scenes of a store, as the configuration says.

    Units are groups, scenes, tiles of a scene, or blocks of ground.
    - Named units are labelled first. If `split.train` is given, units that no list names are in no split.
    - Other units are distributed by their shares of the labelled pixels and, with `balance`, by their classes.
    - With folds, all units outside the test split are divided into equal parts, and one part is val. The test split is
      the same for every fold.
    - Scenes without a mask are in no split, and neither are unnamed units without a labelled pixel.

    Raises DataError if a named unit does not exist or has no mask, if there are fewer units than parts, and if a split
    has no labelled pixel. The test split may be empty if neither names nor a fraction request it.
    """
    units = _units(store, config)
    pixels_UK = _pixels(store, units)
    label_U = _named(store, units, config)
    if not config.train:
        _deal(store, units, pixels_UK, label_U, config)
    labels = {scene.name: np.full(cell_shape(scene), NONE, np.uint8) for scene in store.scenes.values()}
    labels |= {scene: label_U[unit_RC] for scene, unit_RC in units.of_cell.items()}
    for first, grid in units.grids:
        labels |= grid.labels(label_U[first:first + grid.shape[0] * grid.shape[1]], NONE)
    split = Split(labels=labels)
    return Split(labels=labels, notes=_notes(store, split, units, pixels_UK, config))


def _units(store: Store, config: SplitConfig) -> _Units:
    """The units of a store, and the unit of each cell."""
    scenes = sorted((scene for scene in store.scenes.values() if scene.has_mask), key=lambda scene: scene.name)
    without = [scene for scene in store.scenes.values() if not scene.has_mask]
    if config.by == "block":
        return _block_units(scenes, config)
    if config.by == "tile":
        return _tile_units(scenes, without, config.block)
    name_of = {scene.name: scene.group if config.by == "group" else scene.name for scene in store.scenes.values()}
    numbers = {unit: number for number, unit in enumerate(sorted({name_of[scene.name] for scene in scenes}))}
    return _Units(kind=config.by, count=len(numbers), numbers=numbers,
                  of_cell={scene.name: np.full(cell_shape(scene), numbers[name_of[scene.name]]) for scene in scenes},
                  unlabelled=frozenset(name_of[scene.name] for scene in without) - numbers.keys())


def _tile_units(scenes: list[Scene], without: list[Scene], block: int) -> _Units:
    """Tiles SCENE_K. K counts the squares of `block` pixels of a scene row by row from 0, including those cut off at
    its right and lower edge. LandCover.ai's split.py counts the same way, and its published lists use these names. (It
    writes complete tiles only, so its lists contain no others.)"""
    numbers: dict[str, int] = {}
    of_cell: dict[str, NDArray[np.int64]] = {}
    for scene in scenes:
        down, across = (-(-length // block) for length in scene.shape)
        row_R, col_C = (np.arange(cells) * CELL // block for cells in cell_shape(scene))
        of_cell[scene.name] = len(numbers) + row_R[:, None] * across + col_C
        numbers |= {f"{scene.name}_{k}": len(numbers) + k for k in range(down * across)}
    return _Units(kind="tile", count=len(numbers), numbers=numbers, of_cell=of_cell,
                  unlabelled=frozenset(f"{scene.name}_{k}" for scene in without
                                       for k in range(-(-scene.shape[0] // block) * -(-scene.shape[1] // block))))


def _block_units(scenes: list[Scene], config: SplitConfig) -> _Units:
    grids: list[tuple[int, Grid]] = []
    of_cell: dict[str, NDArray[np.int64]] = {}
    count = 0
    for grid in lay(scenes, config.block, config.margin):
        grids.append((count, grid))
        of_cell |= {scene: own_RC + count for scene, own_RC in grid.own.items()}
        count += grid.shape[0] * grid.shape[1]
    return _Units(kind="block", count=count, of_cell=of_cell, grids=tuple(grids))


def _pixels(store: Store, units: _Units) -> NDArray[np.int64]:
    """Labelled pixels of each class in each unit: int64 (U, K). A cell belongs to the unit in which its centre lies."""
    pixels_UK = np.zeros((units.count, len(store.classes)), np.int64)
    for scene, unit_RC in units.of_cell.items():
        counts_RCK, first = store.counts(scene), int(unit_RC.min())
        size = int(unit_RC.max()) + 1 - first
        for k in range(counts_RCK.shape[2]):  # sums of whole numbers below 2^53: exact
            pixels_UK[first:first + size, k] += np.bincount(
                (unit_RC - first).ravel(), counts_RCK[..., k].ravel(), minlength=size).astype(np.int64)
    return pixels_UK


def _named(store: Store, units: _Units, config: SplitConfig) -> NDArray[np.uint8]:
    """The labels of the units that the configuration names: uint8 (U); NONE for the others. Raises DataError for an
    unknown name."""
    label_U = np.full(units.count, NONE, np.uint8)
    for label, name in enumerate(SPLITS):
        chosen: tuple[str, ...] = getattr(config, name)
        for place, unit in enumerate(chosen, start=1):
            if unit not in units.numbers:
                where = f" (name {place} of {len(chosen)})" if len(chosen) > 1 else ""
                raise DataError(f"split.{name}{where}: {_unknown(unit, units)}")
            label_U[units.numbers[unit]] = label
    return label_U


def _unknown(unit: str, units: _Units) -> str:
    if unit in units.unlabelled:
        return f"the {units.kind} {unit!r} has no mask, so it can be in no split; leave it out"
    near = difflib.get_close_matches(unit, units.numbers, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {_some(units.numbers)}"
    return f"no {units.kind} {unit!r} in the store; {hint}"


def _deal(store: Store, units: _Units, pixels_UK: NDArray[np.int64], label_U: NDArray[np.uint8], config: SplitConfig
          ) -> None:
    """Label, in place, the units that are not named and have labelled pixels."""
    rest_N = np.flatnonzero((label_U == NONE) & (pixels_UK.sum(axis=1) > 0))
    left = pixels_UK[rest_N].sum() / max(1, pixels_UK.sum())
    parts = _parts(config, float(left))
    if len(rest_N) < len(parts):
        lacking = parts[len(rest_N)][0]
        raise DataError(f"{store.uri}: the {lacking} split has no labelled pixel: {len(parts)} parts are needed, but "
                        f"only {len(rest_N)} {units.kind}s are left{_listed(units, rest_N)}; {_remedy(units, config)}")
    shares_P = np.array([share for _, share in parts])
    if shares_P.min() <= 0:
        raise DataError(f"{store.uri}: split.val_fraction and split.test_fraction ask for more than the "
                        f"{left:.1%} of the labelled pixels that named {units.kind}s leave; lower them")
    part_N = (apportion(pixels_UK[rest_N], shares_P, config.seed) if config.balance
              else draw(pixels_UK[rest_N].sum(axis=1), shares_P, config.seed))
    label_U[rest_N] = np.array([SPLITS.index(name) for name, _ in parts], np.uint8)[part_N]


def _parts(config: SplitConfig, left: float) -> list[tuple[SplitName, float]]:
    """The parts to make of the unnamed units, with their shares of all labelled pixels. `left` is the share of the
    unnamed units."""
    test: list[tuple[SplitName, float]] = (
        [] if config.test or config.test_fraction == 0 else [("test", config.test_fraction)])
    if config.folds:
        share = (left - sum(share for _, share in test)) / config.folds
        return [*test, *(("val" if fold == config.fold else "train", share) for fold in range(config.folds))]
    val: list[tuple[SplitName, float]] = [] if config.val else [("val", config.val_fraction)]
    return [*val, *test, ("train", left - sum(share for _, share in val + test))]


def _notes(store: Store, split: Split, units: _Units, pixels_UK: NDArray[np.int64], config: SplitConfig
           ) -> tuple[str, ...]:
    """The remarks on a split. Raises DataError if a split that was requested has no labelled pixel."""
    pixels_SK = {name: class_pixels(store, split, name) for name in SPLITS}
    total_K, divided = pixels_UK.sum(axis=0), max(1, sum(int(pixels_K.sum()) for pixels_K in pixels_SK.values()))
    wanted = {"val": config.val_fraction, "test": config.test_fraction}
    lost = 1 - divided / max(1, total_K.sum())
    narrow = config.margin > 0 and lost > _MUCH_LOST_SHARE
    notes = []
    for name, pixels_K in pixels_SK.items():
        if not pixels_K.any():
            if name == "test" and not config.test and config.test_fraction == 0:
                continue
            raise DataError(f"{store.uri}: the {name} split has no labelled pixel ({units.count} {units.kind}s"
                            f"{_listed(units)}); {_WIDER if narrow else _remedy(units, config)}")
        share = pixels_K.sum() / divided
        if name in wanted and not config.folds and not getattr(config, name) and (
                abs(share - wanted[name]) > wanted[name] / 2):
            notes.append(f"the {name} split has {share:.1%} of the pixels, {wanted[name]:.1%} were asked for: "
                         + (f"the margin takes too many; {_WIDER}" if narrow else
                            f"the {units.kind}s are too large or too few"))
        if lacking := [info.name for info, n, of in zip(store.classes, pixels_K, total_K) if n == 0 < of]:
            notes.append(f"the {name} split has no {', '.join(lacking)}")
    if lost > 0 and config.by == "block":
        notes.append(f"{lost:.1%} of the labelled pixels are in no split: their cells lie on a border of two splits, "
                     "or within the margin" + (f"; {_WIDER}" if narrow else ""))
    return tuple(notes)


def _listed(units: _Units, numbers: Iterable[int] | None = None) -> str:
    """Names of units after a colon; empty if units have no names."""
    chosen = set(range(units.count) if numbers is None else (int(n) for n in numbers))
    names = [name for name, number in units.numbers.items() if number in chosen]
    return f": {_some(names)}" if names else ""


def _remedy(units: _Units, config: SplitConfig) -> str:
    if config.folds:
        return f"use fewer split.folds, or ingest more {units.kind}s"
    if units.kind == "block":
        return "use a smaller split.block"
    return f"name {units.kind}s in split.val and split.test, or ingest more {units.kind}s"


def _some(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:8]) + (f", … ({len(first)})" if len(first) > 8 else "")


def class_pixels(store: Store, split: Split, name: SplitName) -> NDArray[np.int64]:
    """Labelled pixels of each class in a split: int64 (classes)."""
    total = np.zeros(len(store.classes), np.int64)
    for scene, cells in split.scenes(name):
        total += store.counts(scene)[cells].sum(axis=0, dtype=np.int64)
    return total


def band_statistics(store: Store, split: Split) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each band over the valid pixels of the train cells: two arrays, float64 (bands).
    """
    total_B3 = np.zeros((store.bands, 3))
    for scene, cells in split.scenes("train"):
        total_B3 += store.moments(scene)[cells].sum(axis=0)
    n_B, sum_B, square_B = np.maximum(total_B3[:, 0], 1), total_B3[:, 1], total_B3[:, 2]
    mean_B = sum_B / n_B
    std_B = np.sqrt(np.maximum(square_B / n_B - mean_B**2, 0))
    return mean_B, np.where(std_B > 0, std_B, 1.0)
