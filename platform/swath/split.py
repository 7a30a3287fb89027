"""Which ground is for what: a label (train, val, test or none) for each 64 x 64 cell of each scene.

However a split is made, it ends as such labels, so that one plan and one score serve every kind.
"""

import difflib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patchstore import Store
from swath.config import SplitConfig
from swath.errors import DataError

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
NONE = 255
"""Label of a cell that is in no split; the others are their places in SPLITS."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The label of every cell: `labels[scene]` is uint8 (cell row, cell col)."""

    labels: dict[str, NDArray[np.uint8]]

    def cells(self, scene: str, name: SplitName) -> NDArray[np.bool_]:
        """Which cells of a scene are in a split: bool (cell row, cell col)."""
        return np.equal(self.labels[scene], SPLITS.index(name))

    def scenes(self, name: SplitName) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """The scenes that have cells in a split, by name, with those cells."""
        for scene in sorted(self.labels):
            cells = self.cells(scene, name)
            if cells.any():
                yield scene, cells

    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for every label of every scene."""
        total = hashlib.sha256()
        for scene, labels in sorted(self.labels.items()):
            total.update(f"{scene} {labels.shape}".encode() + labels.tobytes())
        return total.hexdigest()[:12]


def divide(store: Store, config: SplitConfig) -> Split:
    """Label the cells of every scene of a store, whole groups at a time, or scenes where the configuration says so.

    Scenes without a mask are in no split. Raises DataError for a group (or scene) that does not exist or has no mask,
    and for a split that would be left without a labelled pixel.
    """
    unit_of = {scene.name: scene.group if config.by == "group" else scene.name for scene in store.scenes.values()}
    labelled: dict[str, int] = {}
    for scene in store.scenes.values():
        if scene.has_mask:
            unit = unit_of[scene.name]
            labelled[unit] = labelled.get(unit, 0) + int(store.counts(scene.name).sum())
    splits = _assign(labelled, set(unit_of.values()), config)
    label_of = {unit: SPLITS.index(split) for unit, split in splits.items()}
    labels = {
        scene.name: np.full(store.counts(scene.name).shape[:2],
                            label_of.get(unit_of[scene.name], NONE) if scene.has_mask else NONE, np.uint8)
        for scene in store.scenes.values()
    }
    for name in SPLITS:
        if not any(labelled[unit] for unit, split in splits.items() if split == name):
            raise DataError(
                f"{store.uri}: the {name} split has no labelled pixel ({len(labelled)} {config.by}s: "
                f"{_some(labelled)}); name {config.by}s in split.val and split.test, or ingest more {config.by}s")
    return Split(labels=labels)


def _assign(labelled: dict[str, int], units: set[str], config: SplitConfig) -> dict[str, SplitName]:
    """Give units a split: the named ones first, then draws until each share is reached, then train. Where train is
    named, what is named nowhere gets none."""
    named: tuple[tuple[SplitName, tuple[str, ...]], ...] = (
        ("train", config.train), ("val", config.val), ("test", config.test))
    splits: dict[str, SplitName] = {}
    for name, chosen in named:
        for unit in chosen:
            _check_unit(unit, name, labelled, units, config.by)
            splits[unit] = name
    if config.train:
        return splits
    rest = [unit for unit in sorted(labelled) if unit not in splits]
    np.random.default_rng(config.seed).shuffle(rest)
    drawn: tuple[tuple[SplitName, tuple[str, ...], float], ...] = (
        ("val", config.val, config.val_fraction), ("test", config.test, config.test_fraction))
    for name, chosen, fraction in drawn:
        wanted, have = fraction * sum(labelled.values()), 0
        while not chosen and rest and have < wanted:
            unit = rest.pop()
            splits[unit], have = name, have + labelled[unit]
    return splits | dict.fromkeys(rest, "train")


def _check_unit(unit: str, split: SplitName, labelled: dict[str, int], units: set[str], kind: str) -> None:
    if unit in labelled:
        return
    if unit in units:
        raise DataError(f"split.{split}: the {kind} {unit!r} has no mask, so it can be in no split; leave it out")
    near = difflib.get_close_matches(unit, labelled, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {_some(labelled)}"
    raise DataError(f"split.{split}: no {kind} {unit!r} in the store; {hint}")


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
    """Mean and standard deviation of each band over the valid pixels of the train cells: float64 (bands) each."""
    total_B3 = np.zeros((store.bands, 3))
    for scene, cells in split.scenes("train"):
        total_B3 += store.moments(scene)[cells].sum(axis=0)
    n_B, sum_B, square_B = np.maximum(total_B3[:, 0], 1), total_B3[:, 1], total_B3[:, 2]
    mean_B = sum_B / n_B
    std_B = np.sqrt(np.maximum(square_B / n_B - mean_B**2, 0))
    return mean_B, np.where(std_B > 0, std_B, 1.0)
