"""The split's section of a configuration: which ground is for training, validation and test."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from swath.config.rules import Section, check


@dataclass(frozen=True, kw_only=True)
class SplitConfig(Section):
    """Which ground is for training, validation and test."""

    by: Literal["group", "scene", "block", "tile"] = "group"
    """What is never divided. `group`: scenes that show adjoining or the same ground. `scene`: for published lists that
    divide groups. `block`: squares of ground of `block` pixels, the same for all scenes that show them; with the
    patches' window as block and no margin it is the random draw of patches that is common, and leaks. `tile`: the
    squares SCENE_K of a scene, for published lists of tiles. The overlap certificate says what the splits share."""
    train: tuple[str, ...] = ()
    """Groups (scenes, tiles) for training; what is then named nowhere is in no split. Empty: all that is not for
    validation or test. Here as in val and test, @FILE on a command line stands for the names in a file, one a line."""
    val: tuple[str, ...] = ()
    """Groups (scenes, tiles) for validation; empty: drawn by val_fraction."""
    test: tuple[str, ...] = ()
    """Groups (scenes, tiles) for test; empty: drawn by test_fraction."""
    val_fraction: float = 0.15
    """Share of the labelled pixels for validation, where val is empty and there are no folds."""
    test_fraction: float = 0.15
    """Share of the labelled pixels for test, where test is empty; 0: no test split."""
    balance: bool = True
    """Choose what is drawn so that each split's class fractions come near the whole's; else until its share is
    reached."""
    block: int = 1024
    """Side of a block or tile in pixels (blocks: of the coarsest scene that shows the ground); a multiple of 64."""
    margin: int = 0
    """Ground between blocks of different splits that is in none of them, in pixels."""
    folds: int = 0
    """Grouped cross-validation: what is not for test is cut into so many equal parts, one of them val; 0: none."""
    fold: int = 0
    """Which of the folds is val, from 0."""
    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        check(self.seed >= 0, "split.seed", "0 or more", self.seed)
        times = Counter([*self.train, *self.val, *self.test])
        twice = sorted(name for name, count in times.items() if count > 1)
        check(not twice, "split.train, split.val and split.test", "of names that stand once", twice)
        check(0 < self.val_fraction < 1, "split.val_fraction", "between 0 and 1", self.val_fraction)
        check(0 <= self.test_fraction < 1, "split.test_fraction", "from 0 to below 1", self.test_fraction)
        check(self.val_fraction + self.test_fraction < 1, "split.val_fraction + split.test_fraction", "below 1",
              self.val_fraction + self.test_fraction)
        check(self.block >= 64 and self.block % 64 == 0, "split.block", "a multiple of 64", self.block)
        check(self.margin >= 0, "split.margin", "0 or more", self.margin)
        check(self.margin == 0 or self.by == "block", "split.by", "block where split.margin is given", self.by)
        check(self.folds == 0 or self.folds >= 2, "split.folds", "0, or 2 or more", self.folds)
        check(0 <= self.fold < max(1, self.folds), "split.fold", f"from 0 to below split.folds ({self.folds})",
              self.fold)
        self._check_names()

    def _check_names(self) -> None:
        named = [f"split.{name}" for name in ("train", "val", "test") if getattr(self, name)]
        complete = bool(self.val and (self.test or self.test_fraction == 0))
        check(not self.train or complete, "split.val and split.test", "given where split.train is",
              (self.val, self.test))
        check(self.by != "tile" or bool(self.train), "split.train", "given where split.by is tile", self.train)
        check(self.by != "block" or not named, "split.by",
              f"group, scene or tile where {' and '.join(named)} is given", self.by)
        check(not self.folds or not (self.train or self.val), "split.folds",
              "0 where split.train or split.val is given", self.folds)
