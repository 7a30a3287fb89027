"""Autocorrelation length of labels: ground closer than this is not independent, even if it does not touch.

The estimator: q(c, k) is the share of class k among the labelled pixels of cell c, for cells of which at least half is
labelled. m(k) is its mean over all such cells. The correlation at a lag of h cells is the mean of the sum over k of
(q(c, k) - m(k)) (q(c', k) - m(k)), over pairs of cells (c, c') that lie h apart along a row or column of one scene,
divided by the same mean at lag 0. The length is the interpolated lag at which the correlation first falls below 1/e.
The mean m(k) is that of all scenes: if whole scenes differ, labels stay correlated over the full width of a scene.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchstore import CELL, Scene, Store

_MAX_SCENES = 100
"""Maximum number of scenes that are measured, evenly over their names. More take time and hardly change the estimate.
"""
_MIN_PAIRS = 30
"""Minimum number of pairs of cells for a lag to count."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """An autocorrelation length, or the limit up to which it was looked for."""

    px: float
    """The length in scene pixels. If `longer`, the longest lag that could be measured."""
    m: float | None
    """The length in metres; None if the pixel size is unknown."""
    longer: bool
    """True if the correlation is above 1/e at every lag that could be measured."""


def of_labels(store: Store, scenes: Iterable[str]) -> Length | None:
    """The autocorrelation length of the labels of scenes. If pixel sizes differ, only scenes with the most common one
    count.

    None if it cannot be measured: no two neighbouring cells have labels, or all cells have the same classes.
    """
    chosen = sorted((store.scenes[name] for name in scenes if store.scenes[name].has_mask), key=lambda s: s.name)
    if not chosen:
        return None
    (pixel_m, _), *_ = Counter(map(_pixel_m, chosen)).most_common(1)
    alike = [scene for scene in chosen if _pixel_m(scene) == pixel_m]
    places = np.unique(np.linspace(0, len(alike) - 1, _MAX_SCENES).round().astype(int))
    fields = [_fractions(store.counts(alike[i].name), alike[i].shape) for i in places]
    valid = np.concatenate([q_RCK[there_RC] for q_RCK, there_RC in fields])
    mean_K = valid.mean(axis=0) if len(valid) else np.zeros(len(store.classes))
    variance = float(((valid - mean_K) ** 2).sum(axis=1).mean()) if len(valid) else 0.0
    if variance < 1e-9:
        return None
    centred = [((q_RCK - mean_K) * there_RC[..., None], there_RC) for q_RCK, there_RC in fields]
    return _fall(centred, variance, pixel_m)


def _fall(fields: list[tuple[NDArray[np.float32], NDArray[np.bool_]]], variance: float, pixel_m: float | None
          ) -> Length | None:
    """The lag at which the correlation falls below 1/e. Lags grow by a quarter each."""
    lag, before, value = 0, 0, 1.0
    while True:
        step = max(lag + 1, round(lag * 1.25))
        total, pairs = _products(fields, step)
        if pairs < _MIN_PAIRS:
            return None if lag == 0 else _length(lag, pixel_m, longer=True)
        before, lag, last, value = lag, step, value, total / pairs / variance
        if value < 1 / math.e:
            return _length(before + (last - 1 / math.e) / (last - value) * (lag - before), pixel_m, longer=False)


def _products(fields: list[tuple[NDArray[np.float32], NDArray[np.bool_]]], lag: int) -> tuple[float, int]:
    """Sum of the products of all pairs of cells at a lag, and the number of pairs."""
    total, pairs = 0.0, 0
    for q_RCK, there_RC in fields:
        for one, other in ((np.s_[lag:], np.s_[:-lag]), (np.s_[:, lag:], np.s_[:, :-lag])):
            total += float(np.einsum("ijk,ijk->", q_RCK[one], q_RCK[other], dtype=np.float64))
            pairs += int((there_RC[one] & there_RC[other]).sum())
    return total, pairs


def _length(cells: float, pixel_m: float | None, longer: bool) -> Length:
    return Length(px=cells * CELL, m=None if pixel_m is None else cells * CELL * pixel_m, longer=longer)


def _fractions(counts_RCK: NDArray[np.int64], shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Class fractions of cells, float32 (R, C, K), and the cells of which at least half is labelled, bool (R, C)."""
    labelled_RC = counts_RCK.sum(axis=2)
    rows, cols = (np.minimum(CELL, length - np.arange(0, length, CELL)) for length in shape)
    fraction_RCK = counts_RCK / np.maximum(labelled_RC, 1)[..., None]
    return fraction_RCK.astype(np.float32), 2 * labelled_RC >= rows[:, None] * cols


def _pixel_m(scene: Scene) -> float | None:
    """Side of a pixel in metres, rounded to three digits."""
    return None if scene.pixel_m2 is None else float(f"{math.sqrt(scene.pixel_m2):.3g}")
