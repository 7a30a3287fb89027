"""The order: which patches are in which batch, as a pure function of seed, epoch and index.

Epochs follow one another without a gap: a batch at the end of an epoch is filled from the beginning of the next, so
that every patch is drawn exactly once an epoch (where all weights are equal), every batch is whole, and the sequence
of batches does not depend on how many workers share one.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from swath.patches import PatchPlan


def batch(plan: PatchPlan, seed: int, epoch: int, index: int, batch: int) -> NDArray[np.int64]:
    """The ids of one global batch: int64 (batch), `index` batches after the beginning of `epoch`.

    Counting may go on past the end of the epoch: batch(plan, seed, 0, k, n) for k = 0, 1, … is the whole run.
    """
    first = index * batch
    epochs, places = np.divmod(np.arange(first, first + batch), len(plan))
    return np.array([_epoch(plan, seed, epoch + int(e))[p] for e, p in zip(epochs, places, strict=True)], np.int64)


def share(ids: NDArray[np.int64], rank: int, world_size: int) -> NDArray[np.int64]:
    """The part of a global batch that one rank takes: the rank-th of world_size equal pieces."""
    each = len(ids) // world_size
    return ids[rank * each : (rank + 1) * each]


@lru_cache(maxsize=4)
def _epoch(plan: PatchPlan, seed: int, epoch: int) -> NDArray[np.int64]:
    """The patches of one epoch in their order: a permutation, or as many draws by weight."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch))))
    if np.ptp(plan.weight_P) == 0:
        return generator.permutation(len(plan))
    return generator.choice(len(plan), size=len(plan), p=plan.weight_P / plan.weight_P.sum())
