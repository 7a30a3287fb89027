"""What a score is: counts by scene, and all that follows from them.

Legend: R regions, one a scene; K classes; Q = K + 4 columns (see metrics.Counts); G groups.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.scoring import bootstrap, metrics
from swath.scoring.bootstrap import Intervals
from swath.scoring.metrics import Counts, Uncovered
from swath.scoring.protocol import Protocol, check_poolable, digest

_SAME_SIZE = 1.001
"""Largest over smallest area of a pixel up to which pixels are alike: scenes of one CRS differ in the last digits."""


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """The score of one group's scenes."""

    scenes: int
    pixels: int
    miou: float
    """Over the classes that the group's labels have."""
    accuracy: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Score:
    """The score of a split."""

    classes: tuple[str, ...]
    scenes: tuple[str, ...]
    """The scenes that have cells in the split."""
    groups: tuple[str, ...]
    """The group of each."""
    pixel_m2: tuple[float | None, ...]
    """Ground area of each one's pixels in square metres, where that is known."""
    counts: Counts
    """Of each scene: (R, K, Q)."""
    present_K: NDArray[np.bool_]
    """Classes with labelled pixels in the whole split."""
    ignored: int
    """Pixels of the split without a label."""
    protocol: Protocol
    without: tuple[str, ...] = ()
    """Classes that a second mean leaves out."""

    @cached_property
    def pooled(self) -> Counts:
        """The counts of all scenes together: (K, Q)."""
        return self.counts.sum()

    @property
    def uncovered_as(self) -> Uncovered:
        """What becomes of pixels without a prediction."""
        return self.protocol.uncovered or "wrong"

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Pixels by label (row) and prediction (column): int64 (K, K). Those without a prediction are in
        `uncovered`."""
        return self.pooled.confusion

    @property
    def scored(self) -> NDArray[np.int64]:
        """The same, with a column of pixels without a prediction where those are wrong."""
        return self.pooled.scored(self.uncovered_as)

    @property
    def scored_classes(self) -> NDArray[np.bool_]:
        """Classes with scored pixels: those that the labels have, but for one that a map does not cover at all where
        uncovered pixels are left out. The mean is over these."""
        return np.asarray(self.scored.sum(axis=1) > 0)

    @property
    def pixels(self) -> int:
        """Pixels that were scored."""
        return int(self.scored.sum())

    @property
    def uncovered(self) -> dict[str, int]:
        """Labelled pixels without a prediction, by the scenes that have such."""
        missing_R = self.counts.uncovered.sum(axis=1).tolist()
        return {scene: missing for scene, missing in zip(self.scenes, missing_R, strict=True) if missing}

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that have scored pixels; nan where no pixel is scored."""
        return metrics.mean_iou(self.scored, self.scored_classes)

    @property
    def iou(self) -> dict[str, float | None]:
        """IoU by class; none for a class without scored pixels; so in all by class."""
        return self._by_class(metrics.iou(self.scored))

    @property
    def precision(self) -> dict[str, float | None]:
        """Precision by class; none also for a class that is never predicted."""
        return self._by_class(metrics.precision(self.scored))

    @property
    def recall(self) -> dict[str, float | None]:
        """Recall by class."""
        return self._by_class(metrics.recall(self.scored))

    @property
    def f1(self) -> dict[str, float | None]:
        """F1 (Dice) by class."""
        return self._by_class(metrics.f1(self.scored))

    @property
    def boundary_iou(self) -> dict[str, float | None]:
        """Boundary IoU by class; none for a class whose labels have no contour in the split, whatever is predicted."""
        labels_K = self.pooled.boundary[:, 1]
        return self._by_class(np.where(labels_K > 0, metrics.boundary_iou(self.pooled.boundary), np.nan))

    @property
    def boundary_miou(self) -> float:
        """Mean boundary IoU over the classes that have one; nan where none has."""
        values = [value for value in self.boundary_iou.values() if value is not None]
        return float(np.mean(values)) if values else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of the scored pixels that are right."""
        return metrics.pixel_accuracy(self.scored)

    @cached_property
    def by_area(self) -> Counts | None:
        """The pooled counts with each pixel weighted by its area in square metres; none where pixels are alike or a
        scene's have no known area."""
        sizes = [size for size in self.pixel_m2 if size is not None]
        if len(sizes) < len(self.pixel_m2) or max(sizes) <= _SAME_SIZE * min(sizes):
            return None
        return self.counts.weighted(np.array(sizes)).sum()

    @property
    def miou_by_area(self) -> float | None:
        """Mean IoU of square metres in place of pixels, where `by_area` has them."""
        if self.by_area is None:
            return None
        return metrics.mean_iou(self.by_area.scored(self.uncovered_as), self.scored_classes)

    @cached_property
    def by_group(self) -> dict[str, GroupScore]:
        """The score of each group."""
        scores = {}
        for group, counts_KP in zip(sorted(set(self.groups)), self._scored_by_group(), strict=True):
            scores[group] = GroupScore(
                scenes=self.groups.count(group), pixels=int(counts_KP.sum()),
                miou=metrics.mean_iou(counts_KP, counts_KP.sum(axis=1) > 0),
                accuracy=metrics.pixel_accuracy(counts_KP))
        return scores

    @cached_property
    def intervals(self) -> Intervals | None:
        """95 % intervals by bootstrap over groups; none where fewer than five have scored pixels."""
        return bootstrap.intervals(self._scored_by_group())

    @property
    def unexpected(self) -> list[str]:
        """Classes that are predicted though the split's labels never have them."""
        predicted_K = self.confusion.sum(axis=0) > 0
        return [name for name, p, q in zip(self.classes, predicted_K, self.present_K, strict=True) if p and not q]

    @property
    def unscored(self) -> list[str]:
        """Classes that the split's labels have, but no scored pixel has."""
        missed_K = self.present_K & ~self.scored_classes
        return [name for name, missed in zip(self.classes, missed_K, strict=True) if missed]

    @property
    def means(self) -> dict[str, float]:
        """The mean IoU; the mean without some classes (whose pixels still count in the others' unions); that of square
        metres where pixels differ; and, to know what a score is worth, the mean of a map that has the commonest class
        everywhere."""
        every = {"mean": self.miou}
        if self.without:
            keep_K = np.array([name not in self.without for name in self.classes])
            every[f"mean without {', '.join(self.without)}"] = metrics.mean_iou(self.scored,
                                                                                self.scored_classes & keep_K)
        if self.miou_by_area is not None:
            every["mean by area"] = self.miou_by_area
        labels_K = self.scored.sum(axis=1)
        commonest = int(labels_K.argmax())
        constant_KK = np.zeros_like(self.confusion)
        constant_KK[:, commonest] = labels_K
        every[f"mean of {self.classes[commonest]} everywhere"] = metrics.mean_iou(constant_KK, self.scored_classes)
        return every

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever reads the score should know, a sentence each."""
        notes = []
        unknown = self.pixel_m2.count(None)
        if 0 < unknown < len(self.pixel_m2):
            notes.append(f"{unknown} of {len(self.pixel_m2)} scenes have no pixel size in metres: no score by area")
        if self.intervals is None:
            groups = int(bootstrap.scored_groups(self._scored_by_group()).sum())
            notes.append(f"no intervals: the split has scored pixels in {groups} group{'s' * (groups != 1)}, and a "
                         f"bootstrap over fewer than {bootstrap.LEAST} says nothing")
        if self.unscored:
            notes.append(f"no labelled pixel of {', '.join(self.unscored)} has a prediction: the mean leaves it out")
        if self.unexpected:
            notes.append(f"predicted, though the split's labels never have it: {', '.join(self.unexpected)}")
        fate = "they are left out" if self.uncovered_as == "out" else "they count as wrong"
        notes += [f"{scene}: {pixels:,} labelled pixels have no prediction; {fate}"
                  for scene, pixels in self.uncovered.items()]
        return tuple(notes)

    def numbers(self) -> dict[str, float | None]:
        """The score as metrics of a record, after val/ or test/: miou, accuracy, boundary_miou, and iou, precision,
        recall, f1 and boundary_iou by class; with intervals, miou_low and miou_high; with areas, miou_by_area."""
        of_all = {"miou": self.miou, "accuracy": self.accuracy, "boundary_miou": self.boundary_miou,
                  "miou_by_area": self.miou_by_area}
        if self.intervals is not None:
            of_all |= {"miou_low": self.intervals.miou.low, "miou_high": self.intervals.miou.high}
        by_class = {"iou": self.iou, "precision": self.precision, "recall": self.recall, "f1": self.f1,
                    "boundary_iou": self.boundary_iou}
        every = of_all | {f"{what}/{name}": value for what, values in by_class.items()
                          for name, value in values.items()}
        return {f"{self.protocol.split}/{name}": value for name, value in every.items()}

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values; what is not a number is none."""
        spread = self.intervals
        return {
            "split": self.protocol.split, "protocol": self.protocol.digest(), "ground": self.protocol.ground(),
            "miou": _plain(self.miou), "iou": self.iou, "precision": self.precision, "recall": self.recall,
            "f1": self.f1, "accuracy": _plain(self.accuracy), "boundary_iou": self.boundary_iou,
            "boundary_miou": _plain(self.boundary_miou), "miou_by_area": _plain(self.miou_by_area),
            "confusion": self.confusion.tolist(), "pixels": self.pixels, "ignored": self.ignored,
            "uncovered": self.uncovered, "unexpected": self.unexpected,
            "means": {name: _plain(value) for name, value in self.means.items()},
            "intervals": None if spread is None else {
                "groups": spread.groups, "miou": [spread.miou.low, spread.miou.high],
                "iou": {name: None if one is None else [one.low, one.high]
                        for name, one in zip(self.classes, spread.iou, strict=True)}},
            "groups": {name: {**asdict(one), "miou": _plain(one.miou), "accuracy": _plain(one.accuracy)}
                       for name, one in self.by_group.items()},
            "notes": list(self.notes)}

    def _scored_by_group(self) -> NDArray[np.int64]:
        """The counts of each group, in the order of their names: (G, K, K) or (G, K, K + 1)."""
        names, group_R = np.unique(np.array(self.groups), return_inverse=True)
        scored_RKP = self.counts.scored(self.uncovered_as)
        scored_GKP = np.zeros((len(names), *scored_RKP.shape[1:]), np.int64)
        np.add.at(scored_GKP, group_R, scored_RKP)
        return scored_GKP

    def _by_class(self, values_K: NDArray[np.float64]) -> dict[str, float | None]:
        return {name: _plain(float(value)) if present else None
                for name, value, present in zip(self.classes, values_K, self.scored_classes, strict=True)}


def _plain(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def pool(scores: Sequence[Score]) -> Score:
    """One score of the counts of several, of a model for each of them (the folds of a cross-validation); a scene that
    is in several of them has the counts of all.

    Raises DataError when they were not taken in the same way. That they share no pixel is the caller's affair.
    """
    first = scores[0]
    check_poolable([score.protocol for score in scores], [score.without for score in scores])
    present_K = np.logical_or.reduce([score.present_K for score in scores])
    classes = tuple(name for name, present in zip(first.classes, present_K, strict=True) if present)
    cells = digest({"cells": sorted(score.protocol.cells for score in scores)})
    about = {scene: (group, size) for score in scores
             for scene, group, size in zip(score.scenes, score.groups, score.pixel_m2, strict=True)}
    place = {scene: index for index, scene in enumerate(about)}
    counts_RKQ = np.zeros((len(about), *first.counts.array.shape[1:]), np.int64)
    for score in scores:
        counts_RKQ[[place[scene] for scene in score.scenes]] += score.counts.array  # each has a scene once
    return replace(
        first, scenes=tuple(about), groups=tuple(group for group, _ in about.values()),
        pixel_m2=tuple(size for _, size in about.values()), counts=Counts(counts_RKQ), present_K=present_K,
        ignored=sum(score.ignored for score in scores), protocol=replace(first.protocol, cells=cells, classes=classes))
