"""How far labels resemble their surroundings: the length below which ground is not independent though it is apart.

The estimator: q(c, k) is the share of class k among a cell's labelled pixels, in cells of which at least half is
labelled, m(k) its mean over all such cells. The correlation at a lag of h cells is the mean of
sum over k of (q(c, k) - m(k)) (q(c', k) - m(k)) over the pairs of cells (c, c') that lie h apart along a row or a
column of one scene, over the same at lag 0. The length is the lag at which it first falls below 1/e, interpolated. The
mean is that of all scenes: where scenes differ as wholes, labels stay correlated over their whole width.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchstore import CELL, Scene, Store

_MAX_SCENES = 100
"""Scenes that are looked at, evenly over their names: more take time and hardly change the estimate."""
_MIN_PAIRS = 30
"""Pairs of cells without which a lag says nothing."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """An autocorrelation length, or how far it was looked for."""

    px: float
    """The length in scene pixels; where `longer`, the longest lag that could be looked at."""
    m: float | None
    """The same in metres; none where the pixels' size is not known."""
    longer: bool
    """Whether the correlation is above 1/e at every lag that could be looked at."""


def of_labels(store: Store, scenes: Iterable[str]) -> Length | None:
    """The autocorrelation length of the labels of scenes; of those with the commonest pixel size, where it differs.

    None where there is nothing to measure: no two neighbouring cells with labels, or the same classes everywhere.
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
    """Where the correlation falls below 1/e, over lags that grow by a quarter each."""
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
    """Sum of the products of all pairs of cells at a lag, and how many there are."""
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
    """Side of a pixel in metres, to three digits."""
    return None if scene.pixel_m2 is None else float(f"{math.sqrt(scene.pixel_m2):.3g}")
