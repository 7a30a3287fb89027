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

from swath.scoring import metrics

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
    """Those that have scored pixels."""
    miou: Interval
    iou: tuple[Interval | None, ...]
    """By class; none where fewer than five groups have labels of it. A class that few have is missing in some draws:
    its interval is that of the others."""


def scored_groups(counts_GKP: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which groups have scored pixels (G,): what has none says nothing, and is not drawn."""
    return np.asarray(counts_GKP.sum(axis=(1, 2)) > 0)


def intervals(counts_GKP: NDArray[np.int64]) -> Intervals | None:
    """95 % intervals of the mean IoU and of each class's, from the counts of each group, (G, K, K) or (G, K, K + 1).

    A draw takes as many groups as have scored pixels, with replacement, and is scored as the split is: the mean is over
    the classes that its labels have. None for fewer than five such groups.
    """
    counts_GKP = counts_GKP[scored_groups(counts_GKP)]
    groups = len(counts_GKP)
    if groups < LEAST:
        return None
    drawn_DG = np.random.default_rng(_SEED).multinomial(groups, np.full(groups, 1 / groups), DRAWS).astype(np.float64)
    right_GK, labels_GK, predicted_GK = metrics.totals(counts_GKP)
    right_DK, labels_DK, predicted_DK = (drawn_DG @ n_GK for n_GK in (right_GK, labels_GK, predicted_GK))
    iou_DK = metrics.ratio(right_DK, labels_DK + predicted_DK - right_DK)
    there_DK = labels_DK > 0  # each draw has some: its groups have scored pixels
    miou_D = metrics.ratio(np.where(there_DK, iou_DK, 0).sum(axis=1), there_DK.sum(axis=1))
    enough_K = (labels_GK > 0).sum(axis=0) >= LEAST
    return Intervals(groups=groups, miou=_interval(miou_D), iou=tuple(
        _interval(iou_DK[there_DK[:, k], k]) if enough else None for k, enough in enumerate(enough_K)))


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, _TAILS)
    return Interval(low=float(low), high=float(high))
