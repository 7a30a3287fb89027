"""Assignment of units (groups, scenes, blocks) to parts, so that each part resembles the whole. Integers and NumPy
only.

The distance of parts from their aim is a sum over parts. Each part contributes the squared relative deviation of its
size from its share, and the deviation of its class fractions from those of the whole: (n / (share N) - 1)^2 + sum over
k of w_k (sqrt(f_k / F_k) - 1)^2. With square roots (as in Freeman and Tukey's statistic), a class that is missing
weighs as much as one that is four times too frequent. The weight of a class is the square root of its fraction (w_k =
sqrt F_k, normalised): rare classes count, but a class that occurs in a single unit does not decide alone.
Legend: U units, P parts, K classes, M candidates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STARTS = 8
"""Number of searches from different draws. The best result is taken."""
_VISITS = 4000
"""Maximum number of unit visits over all searches, after the first visit to each unit: about half a second."""
_PARTNERS = 32
"""Number of other units with which an exchange of a unit is tried."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Aim:
    """Target size and class fractions of each part."""

    total: float
    share_P: NDArray[np.float64]
    fraction_K: NDArray[np.float64]
    weight_K: NDArray[np.float64]

    def miss(self, pixels_MK: NDArray[np.float64], parts_M: NDArray[np.int64]) -> NDArray[np.float64]:
        """Distance of parts with these pixels from their aim: float64 (M); infinite for an empty part."""
        size_M = pixels_MK.sum(axis=1)
        apart_MK = np.sqrt(pixels_MK / (np.maximum(size_M, 1e-9)[:, None] * self.fraction_K)) - 1
        miss_M = (size_M / (self.total * self.share_P[parts_M]) - 1) ** 2 + apart_MK**2 @ self.weight_K
        return np.where(size_M > 0, miss_M, np.inf)


def draw(pixels_U: NDArray[np.int64], shares_P: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Random draw without class balance: take units in random order and fill each part up to its share; the last part
    gets the rest.

    Returns the part of each unit: int64 (U).
    """
    order_U = np.random.default_rng(seed).permutation(len(pixels_U))
    parts_U = np.full(len(pixels_U), len(shares_P) - 1)
    wanted_P, at = shares_P / shares_P.sum() * pixels_U.sum(), 0
    for part in range(len(shares_P) - 1):
        have = 0
        while at < len(order_U) and have < wanted_P[part]:
            parts_U[order_U[at]], have, at = part, have + int(pixels_U[order_U[at]]), at + 1
    return parts_U


def apportion(pixels_UK: NDArray[np.int64], shares_P: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Part of each unit, so that each part is close to its share of the pixels and to the class fractions of the whole:
    int64 (U). Each part gets at least one unit.

    Start from several random draws. From each, move and exchange units as long as that lowers the distance (see above),
    and return the best result. It is never worse than the plain draw of the same seed. Shares are relative to their
    sum.

    Raises ValueError if there are fewer units with pixels than parts, or if a share is not above zero.
    """
    shares_P = np.asarray(shares_P, np.float64) / np.sum(shares_P)
    if (pixels_UK.sum(axis=1) > 0).sum() < len(shares_P) or not (shares_P > 0).all():
        raise ValueError(f"{len(shares_P)} parts need as many units with pixels, and shares above zero; got "
                         f"{(pixels_UK.sum(axis=1) > 0).sum()} units, shares {shares_P}")
    weights_UK = pixels_UK[:, pixels_UK.sum(axis=0) > 0].astype(np.float64)
    fraction_K = weights_UK.sum(axis=0) / weights_UK.sum()
    aim = _Aim(total=float(weights_UK.sum()), share_P=shares_P, fraction_K=fraction_K,
               weight_K=np.sqrt(fraction_K) / np.sqrt(fraction_K).sum())
    generator, visits = np.random.default_rng([seed, 1]), max(_VISITS, len(pixels_UK))
    found: list[tuple[float, NDArray[np.int64]]] = []
    for start in range(_STARTS):
        first = seed if start == 0 else int(generator.integers(2**32))
        parts_U = _filled(draw(pixels_UK.sum(axis=1), shares_P, first), pixels_UK.sum(axis=1), len(shares_P))
        used, miss = _improve(parts_U, weights_UK, aim, generator, visits)
        found.append((miss, parts_U))
        visits -= used
        if visits < len(pixels_UK):
            break
    return min(found, key=lambda pair: pair[0])[1]


def _filled(parts_U: NDArray[np.int64], pixels_U: NDArray[np.int64], parts: int) -> NDArray[np.int64]:
    """Give each empty part the smallest unit of the part with the most units."""
    parts_U = parts_U.copy()
    real_U = pixels_U > 0
    for part in range(parts):
        if not (real_U & (parts_U == part)).any():
            richest = int(np.bincount(parts_U[real_U], minlength=parts).argmax())
            theirs = np.flatnonzero(real_U & (parts_U == richest))
            parts_U[theirs[pixels_U[theirs].argmin()]] = part
    return parts_U


def _improve(parts_U: NDArray[np.int64], weights_UK: NDArray[np.float64], aim: _Aim, generator: np.random.Generator,
             visits: int) -> tuple[int, float]:
    """Move and exchange units in place, as long as this lowers the distance and visits are left.

    Returns the number of visits used and the remaining distance.
    """
    parts = np.arange(len(aim.share_P))
    have_PK = np.stack([weights_UK[parts_U == part].sum(axis=0) for part in parts])
    miss_P, used, better = aim.miss(have_PK, parts), 0, True
    while better and used + len(parts_U) <= visits:
        better = False
        for unit in generator.permutation(len(parts_U)):
            change, to, partner = _best_step(int(unit), parts_U, weights_UK, have_PK, miss_P, aim, generator)
            if change < -1e-9:
                own, better = parts_U[unit], True
                shift_K = weights_UK[unit] - (0 if partner < 0 else weights_UK[partner])
                parts_U[unit] = to
                if partner >= 0:
                    parts_U[partner] = own
                have_PK[own] -= shift_K
                have_PK[to] += shift_K
                miss_P = aim.miss(have_PK, parts)
        used += len(parts_U)
    return used, float(miss_P.sum())


def _best_step(unit: int, parts_U: NDArray[np.int64], weights_UK: NDArray[np.float64], have_PK: NDArray[np.float64],
               miss_P: NDArray[np.float64], aim: _Aim, generator: np.random.Generator) -> tuple[float, int, int]:
    """The best change for a unit: change of the distance, the part it moves to, and the unit that takes its place (-1:
    none). All moves are tried, and exchanges with a sample of units of other parts."""
    own = parts_U[unit]
    units = len(parts_U)
    others_M = np.arange(units) if units <= _PARTNERS else generator.integers(units, size=_PARTNERS)
    others_M = others_M[parts_U[others_M] != own]
    away_P = np.flatnonzero(np.arange(len(miss_P)) != own)
    to_M = np.concatenate([away_P, parts_U[others_M]])
    shift_MK = weights_UK[unit] - np.concatenate([np.zeros((len(away_P), weights_UK.shape[1])), weights_UK[others_M]])
    left_MK = np.maximum(have_PK[own] - shift_MK, 0)  # sums of whole numbers below 2^53: exact, never below zero
    change_M = (aim.miss(left_MK, np.full(len(to_M), own)) + aim.miss(have_PK[to_M] + shift_MK, to_M)
                - miss_P[own] - miss_P[to_M])
    if len(change_M) == 0:
        return 0.0, int(own), -1
    best = int(change_M.argmin())
    return float(change_M[best]), int(to_M[best]), -1 if best < len(away_P) else int(others_M[best - len(away_P)])
