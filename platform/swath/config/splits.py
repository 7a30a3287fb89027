"""Section `split` of a configuration: which ground is used for training, validation and test."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from swath.config.rules import Section, check
from swath.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SplitConfig(Section):
    """Which ground is used for training, validation and test."""

    by: Literal["group", "scene", "block", "tile"] = "group"
    """Unit that is never divided between splits. The overlap certificate reports the ground that splits share. Blocks
    as large as a patch window and without a margin are the usual random draw of patches, which leaks.
    - `group`: all scenes that show the same or adjoining ground.
    - `scene`: single scenes, for published lists that divide groups.
    - `block`: squares of ground with a side of `split.block` pixels, the same for all scenes that show them.
    - `tile`: the squares SCENE_K of a scene, for published lists of tiles."""
    train: tuple[str, ...] = ()
    """Groups (or scenes, or tiles) for training. If given, units that no list names are in no split. Empty: all
    units that are not in validation or test. On the command line, @FILE in train, val and test stands for the
    names in a file, one a line."""
    val: tuple[str, ...] = ()
    """Groups (or scenes, or tiles) for validation. Empty: chosen by val_fraction."""
    test: tuple[str, ...] = ()
    """Groups (or scenes, or tiles) for test. Empty: chosen by test_fraction."""
    val_fraction: float = 0.15
    """Share of the labelled pixels for validation. Used if `split.val` is empty and there are no folds."""
    test_fraction: float = 0.15
    """Share of the labelled pixels for test. Used if `split.test` is empty. 0: no test split."""
    balance: bool = True
    """Class balance of the splits: choose units so that the class shares of each split are close to those of all
    data. Without it, units are drawn at random until the split has its share."""
    block: int = 1024
    """Side of a block or tile in pixels, a multiple of 64. For blocks, these are pixels of the coarsest scene that
    shows the ground."""
    margin: int = 0
    """Margin in pixels between blocks of different splits. The ground in the margin is in no split."""
    folds: int = 0
    """Number of folds for grouped cross-validation: all units outside the test split are divided into this many
    equal parts, and one part is validation. 0: no cross-validation."""
    fold: int = 0
    """Index of the fold that is the validation split, from 0."""
    seed: int = 0
    """Random seed of the split."""

    def __post_init__(self) -> None:
        check(self.seed >= 0, "split.seed", "0 or more", self.seed)
        times = Counter([*self.train, *self.val, *self.test])
        twice = sorted(name for name, count in times.items() if count > 1)
        if twice:
            raise ConfigError("each name may appear only once in split.train, split.val and split.test; repeated: "
                              + ", ".join(twice))
        check(0 < self.val_fraction < 1, "split.val_fraction", "between 0 and 1", self.val_fraction)
        check(0 <= self.test_fraction < 1, "split.test_fraction", "at least 0 and below 1", self.test_fraction)
        check(self.val_fraction + self.test_fraction < 1, "split.val_fraction + split.test_fraction", "below 1",
              self.val_fraction + self.test_fraction)
        check(self.block >= 64 and self.block % 64 == 0, "split.block", "a multiple of 64", self.block)
        check(self.margin >= 0, "split.margin", "0 or more", self.margin)
        check(self.margin == 0 or self.by == "block", "split.by", "block if split.margin is above 0", self.by)
        check(self.folds == 0 or self.folds >= 2, "split.folds", "0, or 2 or more", self.folds)
        check(0 <= self.fold < max(1, self.folds), "split.fold", f"at least 0 and below split.folds ({self.folds})",
              self.fold)
        self._check_names()

    def _check_names(self) -> None:
        named = [f"split.{name}" for name in ("train", "val", "test") if getattr(self, name)]
        complete = bool(self.val and (self.test or self.test_fraction == 0))
        check(not self.train or complete, "split.val and split.test",
              "given if split.train is given (or split.val alone, with split.test_fraction 0)", (self.val, self.test))
        check(self.by != "tile" or bool(self.train), "split.train", "given if split.by is tile", self.train)
        check(self.by != "block" or not named, "split.by",
              f"group, scene or tile if {' and '.join(named)} is given", self.by)
        check(not self.folds or not (self.train or self.val), "split.folds",
              "0 if split.train or split.val is given", self.folds)
