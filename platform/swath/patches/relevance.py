"""Relevance filters and class balance: which patches are used for training, and how often each is drawn.

Both follow from class counts alone. Counts are exact or estimates, as `places.CellSums` describes. Legend: P windows, K
classes.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swath.config import PatchesConfig
from swath.errors import DataError

_MIN_PIXELS = 1e-4
"""Threshold in pixels above which a window contains a class. A single pixel in a cell that the window cuts contributes
at least 1 / 64²; rounding errors are below 1e-6."""

Shares = Callable[[NDArray[np.float64], int], NDArray[np.float64]]
"""Function from class counts (P, K) and the window's side, both in scene pixels, to a share for each window: float64
(P)."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A limit on a share of a window's pixels."""

    field: str
    """The field of the configuration that sets the limit."""
    bound: float
    """The smallest or the largest allowed share."""
    least: bool
    """True if the limit is the smallest allowed share."""
    shares: Shares
    """Function that computes the share."""


class RelevanceFilter:
    """Keeps windows that have labels and pass all rules. Rules are applied in order, and the filter counts the windows
    that pass each."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self.seen = self.labelled = 0
        self.passed = [0] * len(self.rules)
        self.best = [-np.inf if rule.least else np.inf for rule in self.rules]

    def keep(self, pixels_PK: NDArray[np.float64], side: int) -> NDArray[np.bool_]:
        """Which windows are kept: bool (P). A window has labels if it touches a cell with labels, even if the labels
        lie in another part of that cell. So no labelled pixel is lost."""
        keep_P: NDArray[np.bool_] = pixels_PK.sum(axis=1) > _MIN_PIXELS
        self.seen, self.labelled = self.seen + len(keep_P), self.labelled + int(keep_P.sum())
        for number, rule in enumerate(self.rules):
            kept = np.flatnonzero(keep_P)
            if not len(kept):
                break
            shares_P = rule.shares(pixels_PK[kept], side)
            self.best[number] = float(max(self.best[number], shares_P.max()) if rule.least else
                                      min(self.best[number], shares_P.min()))
            passes_P = shares_P >= rule.bound - 1e-9 if rule.least else shares_P <= rule.bound + 1e-9
            keep_P[kept[~passes_P]] = False
            self.passed[number] += int(passes_P.sum())
        return keep_P

    @property
    def dropped(self) -> int:
        """Number of windows that have labels and fail a rule."""
        return self.labelled - self.passed[-1] if self.rules else 0

    def story(self) -> str:
        """Number of windows left after each step, as text for the user."""
        steps = [f"{self.labelled:,} have labels"]
        for rule, passed, best in zip(self.rules, self.passed, self.best, strict=True):
            step = f"{passed:,} pass {rule.field} {rule.bound:g}"
            if not passed and np.isfinite(best):
                step += f" (the {'most' if rule.least else 'least'} that any has: {best:.2g})"
            steps.append(step)
            if not passed:
                break
        return "; ".join(steps)

    def culprit(self) -> Rule | None:
        """The first rule that no window passed; None if there is none or if no window has labels."""
        return next((rule for rule, passed in zip(self.rules, self.passed, strict=True)
                     if not passed and self.labelled), None)


def rules(config: PatchesConfig, classes: Sequence[str]) -> list[Rule]:
    """The rules that a configuration sets for training patches. Raises DataError if a background class does not exist.
    """
    if unknown := set(config.background) - set(classes):
        raise DataError(f"patches.background: no class {', '.join(sorted(unknown))}; there are: {', '.join(classes)}")
    foreground_K = np.array([name not in config.background for name in classes])
    every = (
        Rule(field="patches.min_foreground", bound=config.min_foreground, least=True,
             shares=lambda pixels_PK, _: pixels_PK[:, foreground_K].sum(axis=1) / pixels_PK.sum(axis=1)),
        Rule(field="patches.min_not_lowest", bound=config.min_not_lowest, least=True, shares=_not_lowest),
        Rule(field="patches.max_ignored", bound=config.max_ignored, least=False,
             shares=lambda pixels_PK, side: 1 - pixels_PK.sum(axis=1) / side**2),
    )
    return [rule for rule in every if rule.bound != (0 if rule.least else 1)]


def _not_lowest(pixels_PK: NDArray[np.float64], _: int) -> NDArray[np.float64]:
    """Share of pixels outside the lowest class: 1 - counts[0] / counts.sum() with the counts of np.unique."""
    lowest_P = (pixels_PK > _MIN_PIXELS).argmax(axis=1)
    shares_P: NDArray[np.float64] = 1 - pixels_PK[np.arange(len(pixels_PK)), lowest_P] / pixels_PK.sum(axis=1)
    return shares_P


@dataclass(frozen=True, kw_only=True, eq=False)
class Balance:
    """Distribution of draws: one part is equal for all patches, the rest is distributed by class."""

    alike: float
    """Share of draws that is distributed equally over all patches."""
    draws_K: NDArray[np.float64]
    """Share of draws for each class. Within a class, patches are drawn in proportion to their pixels of it. `alike` and
    `draws_K` sum to 1."""

    def weights(self, pixels_PK: NDArray[np.float64], total_K: NDArray[np.float64], patches: int
                ) -> NDArray[np.float64]:
        """Expected number of draws of each patch, in an epoch with as many draws as patches: float64 (P), with mean 1.

        `total_K` is the number of pixels of each class in all `patches` of the plan, in the unit of `pixels_PK`.
        """
        per_pixel_K = np.divide(self.draws_K, total_K, out=np.zeros_like(total_K), where=total_K > 0)
        weights_P: NDArray[np.float64] = self.alike + patches * (pixels_PK @ per_pixel_K)
        return weights_P


def named(config: PatchesConfig, classes: Sequence[str]) -> list[int]:
    """Indices of the classes that `patches.balance` names; empty for none, class and sqrt. Raises DataError for an
    unknown name."""
    if config.balance in ("none", "class", "sqrt"):
        return []
    names = [config.balance] if config.balance in classes else config.balance.split("+")
    for name in names:
        if name not in classes:
            near = difflib.get_close_matches(name, [*classes, "none", "class", "sqrt"], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(classes)}"
            raise DataError(f"patches.balance: no class {name!r} in the store; {hint}")
    return sorted({list(classes).index(name) for name in names})


def balance(config: PatchesConfig, classes: Sequence[str], total_K: NDArray[np.float64]) -> Balance:
    """The class balance of a configuration, given the pixels of each class in all patches of the plan.

    Raises DataError if a named class does not exist or no patch contains it.
    """
    if config.balance == "none":
        return Balance(alike=1.0, draws_K=np.zeros(len(classes)))
    if config.balance in ("class", "sqrt"):
        draws_K = (total_K > _MIN_PIXELS).astype(np.float64) if config.balance == "class" else np.sqrt(total_K)
        return Balance(alike=0.0, draws_K=draws_K / draws_K.sum())
    chosen = named(config, classes)
    if absent := [classes[k] for k in chosen if total_K[k] <= _MIN_PIXELS]:
        raise DataError(f"patches.balance: no train patch has a pixel of {', '.join(absent)}; name classes that occur, "
                        "or let more patches pass the filters")
    draws_K = np.zeros(len(classes))
    draws_K[chosen] = 0.5 / len(chosen)
    return Balance(alike=0.5, draws_K=draws_K)
