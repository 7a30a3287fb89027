"""Intervals of a score by bootstrap over groups.

Pixels of a scene, and scenes of a group, are alike, so that they say far less about other ground than their number
suggests: groups are what is drawn (Cameron, Gelbach & Miller 2008, Bootstrap-Based Improvements for Inference with
Clustered Errors, Review of Economics and Statistics 90, 414-427). Percentile intervals over a fixed sequence of draws,
so that the same score has the same interval.

Legend: G groups, D draws, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swath import metrics

DRAWS = 2000
LEAST = 5
"""Groups below which no interval is given: a handful of draws of so few says nothing of the spread."""
_SEED = 0
_TAILS = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """95 % of the draws lie within."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Of a score, over groups."""

    groups: int
    miou: Interval
    iou: tuple[Interval | None, ...]
    """By class; none where the split's labels do not have it. A class that few groups have is missing in some draws:
    its interval is that of the others."""


def intervals(counts_GKP: NDArray[np.int64], present_K: NDArray[np.bool_]) -> Intervals | None:
    """95 % intervals of the mean IoU and of each class's, from the counts of each group, (G, K, K) or (G, K, K + 1).

    A draw takes G groups with replacement and is scored as the split is: the mean is over the classes that its labels
    have. None for fewer than five groups.
    """
    groups = len(counts_GKP)
    if groups < LEAST:
        return None
    drawn_DG = np.random.default_rng(_SEED).multinomial(groups, np.full(groups, 1 / groups), DRAWS).astype(np.float64)
    right_GK, labels_GK, predicted_GK = metrics.totals(counts_GKP)
    right_DK, labels_DK, predicted_DK = (drawn_DG @ n_GK for n_GK in (right_GK, labels_GK, predicted_GK))
    iou_DK = metrics.ratio(right_DK, labels_DK + predicted_DK - right_DK)
    there_DK = (labels_DK > 0) & present_K
    scored_D = there_DK.any(axis=1)  # a draw of groups without a label has no score
    miou_D = metrics.ratio(np.where(there_DK, iou_DK, 0).sum(axis=1)[scored_D], there_DK.sum(axis=1)[scored_D])
    return Intervals(groups=groups, miou=_interval(miou_D), iou=tuple(
        _interval(iou_DK[there_DK[:, k], k]) if present_K[k] else None for k in range(len(present_K))))


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, _TAILS)
    return Interval(low=float(low), high=float(high))
