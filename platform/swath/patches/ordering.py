"""The order of patches: which patches are in which batch. A pure function of plan, seed, epoch and index.

Epochs follow each other without a gap. The last batch of an epoch is filled from the beginning of the next, so every
batch is complete, and the order does not depend on the number of workers. An epoch is made in four steps:

1. *Draws.* As many as there are patches. If all weights are equal, each patch is drawn once. Otherwise systematic
   resampling draws each patch its expected number of times, rounded up or down.
2. *Walks.* Patches that begin in the same square of a level share chunks. A square is about `reach` pixels wide. The
   draws of a square form one walk. If windows overlap a lot, they form several walks, each a random part of them.
3. *Rounds.* The walks of an epoch are put in random order, and a few at a time form a round. The patches of a round
   are shuffled within strips one chunk high, and the strips run from top to bottom: only a few chunks are needed at a
   time.
4. *Lanes.* The list is cut into equal parts, one for each position in the batch. Each position (lane) takes its patches
   from its own part. A rank has neighbouring positions, so its cache serves its own lanes only.

Bytes read and quality of the mixing, compared with a fully random order: tests/bench/bench_order.py and
tests/bench/bench_mixing.py.

Concentric patches are ordered by the position of their finest window. The chunks of all their windows are counted.

Legend: P patches, G groups (the patches of a scene that are read from one level), W squares, V walks, O windows of a
patch (the number of scales of a concentric patch, else one).
"""

import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from swath.geometry import around
from swath.patches.planning import PatchPlan

GOOD_READ_RATIO = 0.6
"""Bytes of chunks over bytes of windows. Below this ratio longer walks gain little: at 256 px, decoding a chunk takes
0.2 ms, and copying and augmenting a patch as much again. A lower ratio reads less but mixes worse."""
WANTED_READ_RATIO = 1.3
"""If the read ratio is above this, wider squares may take twice the memory (2 x LANES_BYTES)."""
LANES_BYTES = 256 << 20
"""Memory in bytes that the caches of all lanes should take together at most. It limits the width of squares beyond the
minimum. A process that has all lanes uses all of this memory. The order may depend on the batch size, but not on the
number of workers."""
ROUND_BYTES = 192 << 20
"""Memory limit in bytes for several walks in a round. This memory serves only to mix better."""
MAX_WALKS_PER_ROUND = 8
"""Maximum number of walks in a round."""
CACHE_FACTOR = 1.5
"""Cache size over the size of the chunks that are needed at a time. A cache evicts the least recently used chunk, which
may still be needed."""
MIN_CACHE_BYTES = 32 << 20
"""Minimum cache size of a rank in bytes."""
FAR_POSITION = 2**30
"""A number beyond every position."""

Ints = NDArray[np.int32]
T = TypeVar("T")


def batch(plan: PatchPlan, seed: int, epoch: int, index: int, batch: int) -> NDArray[np.int64]:
    """The patch ids of a global batch: int64 (batch). `index` counts batches from the beginning of `epoch`.

    `index` may exceed the epoch: batch(plan, seed, 0, k, n) for k = 0, 1, … is the whole run.
    """
    epochs, places = np.divmod(np.arange(index * batch, (index + 1) * batch), len(plan))
    least, more = divmod(len(plan), batch)
    lanes, steps = places % batch, places // batch
    at = lanes * least + np.minimum(lanes, more) + steps  # the first `more` lanes have a patch more than the others
    ids = np.empty(batch, np.int64)
    for further in range(int(epochs[0]), int(epochs[-1]) + 1):
        ids[epochs == further] = sequence(plan, seed, epoch + further, batch)[at[epochs == further]]
    return ids


def share(ids: NDArray[np.int64], rank: int, world_size: int) -> NDArray[np.int64]:
    """The part of a global batch for one rank: the rank-th of world_size equal parts."""
    each = len(ids) // world_size
    return ids[rank * each : (rank + 1) * each]


def sequence(plan: PatchPlan, seed: int, epoch: int, batch: int) -> Ints:
    """The patch ids of an epoch, lane after lane: int32 (P). The last two results are cached."""
    def make() -> Ints:
        squares = _squares_of(plan, batch)
        return _sequence(plan.weight_P, squares, _walks_per_round(squares, batch), seed, epoch)

    return _kept(_EPOCHS, plan, (seed, epoch, batch), 2, make)


def reach(plan: PatchPlan, batch: int) -> int:
    """Side of the squares that lanes walk through, in pixels of the level that is read: from 2 chunks to a shard."""
    return _squares_of(plan, batch).reach


def cache_bytes(plan: PatchPlan, batch: int, world_size: int) -> int:
    """Cache size in bytes of decoded chunks for one rank, so that its lanes decode almost no chunk twice.

    At most 512 MB for all lanes together. Large batches of many bands would need more, so they decode some chunks
    twice.
    """
    squares = _squares_of(plan, batch)
    lanes = batch // world_size
    wanted = CACHE_FACTOR * squares.live_bytes * _walks_per_round(squares, batch) * lanes
    return max(MIN_CACHE_BYTES, round(min(wanted, 2 * LANES_BYTES * lanes / batch)))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Squares:
    """The squares of a plan. It has no reference to the plan, and does not depend on the batch."""

    reach: int
    square_P: Ints
    """The square in which each patch begins."""
    strip_P: NDArray[np.uint16]
    """The strip of its square in which each patch begins, counted from the top."""
    walks_W: Ints
    """Number of walks into which the draws of each square are divided in an epoch."""
    live_bytes: float
    """Bytes of chunks that a walk needs at a time; 0 if windows share almost no chunks and a cache does not help."""
    fetched: float
    """Bytes of chunks over bytes of windows, if no chunk is decoded twice on a walk."""


def _choose(plan: PatchPlan, batch: int) -> _Squares:
    """The smallest squares with a good read ratio. If there are none, the smallest squares within 5 % of the best read
    ratio that memory allows.

    Small squares mix best. If windows overlap, 2 chunks are usually enough. If windows do not overlap and do not lie on
    the grid of chunks, each edge of a square costs a row of chunks that is decoded twice; only large squares make this
    rare.
    """
    found = [_squares(plan, min(2 * plan.chunk, plan.shard))]
    while found[-1].fetched > GOOD_READ_RATIO and found[-1].reach < plan.shard:
        wider = _squares(plan, min(2 * found[-1].reach, plan.shard))
        room = LANES_BYTES if found[-1].fetched <= WANTED_READ_RATIO else 2 * LANES_BYTES
        if wider.live_bytes * CACHE_FACTOR * batch > room:
            break
        found.append(wider)
    limit = max(GOOD_READ_RATIO, 1.05 * min(squares.fetched for squares in found))
    return next(squares for squares in found if squares.fetched <= limit)


def _walks_per_round(squares: _Squares, batch: int) -> int:
    """Number of walks in a round: as many as memory allows, but few enough that each lane has many rounds in an epoch.
    """
    room = ROUND_BYTES // max(1, squares.live_bytes * CACHE_FACTOR * batch)
    return max(1, min(MAX_WALKS_PER_ROUND, int(room), int(squares.walks_W.sum()) // (16 * batch)))


def _squares(plan: PatchPlan, reach: int) -> _Squares:
    """Squares of about `reach` pixels, with the cost of walking through them."""
    square_P, strip_P, squares = _place(plan, reach)
    strips = int(strip_P.max()) + 1
    each = range(plan.scales_per_sample)
    first = np.full((2, len(each), squares * strips), FAR_POSITION, np.int32)
    last = -first
    windows_W, alone_OW = np.zeros(squares), np.zeros((len(each), squares))  # in chunks: area, and all they touch
    scale = len(plan) / plan.weight_P.sum(dtype=np.float64)
    for part, view in product(_parts(len(plan)), each):
        _, shift, side = _levels(plan, part, view)
        key, touched = square_P[part] * strips + strip_P[part], np.ones(len(side), np.int64)
        for axis, at_P in enumerate((plan.row_P, plan.col_P)):
            at = _begin(plan, at_P, part, view) >> shift
            low, high = np.maximum(0, at) // plan.chunk, (at + side - 1) // plan.chunk
            np.minimum.at(first[axis, view], key, low)
            np.maximum.at(last[axis, view], key, high)
            touched *= high - low + 1
        draws = plan.weight_P[part] * scale
        windows_W += np.bincount(square_P[part], draws * (side / plan.chunk) ** 2, squares)
        alone_OW[view] += np.bincount(square_P[part], draws * touched, squares)

    box_OW = _area(first.reshape(2, -1, squares, strips).min(axis=3), last.reshape(2, -1, squares, strips).max(axis=3))
    box_W = box_OW.sum(axis=0)
    walks_W = np.maximum(box_W > 0, windows_W * GOOD_READ_RATIO // np.maximum(1, box_W)).astype(np.int32)
    fetched = float(np.minimum(walks_W * box_OW, alone_OW).sum())
    live = float(_area(first, last).sum(axis=0).max()) if fetched < 0.9 * alone_OW.sum() else 0.0
    return _Squares(reach=reach, square_P=square_P, strip_P=strip_P, walks_W=walks_W,
                    live_bytes=live * plan.chunk**2 * plan.pixel_bytes, fetched=fetched / float(windows_W.sum()))


def _area(first: Ints, last: Ints) -> NDArray[np.float64]:
    """Number of chunks in rectangles given by their first and last row and column of chunks; 0 for an empty rectangle.
    """
    area: NDArray[np.float64] = np.maximum(0, last - first + 1).prod(axis=0, dtype=np.float64)
    return area


def _begin(plan: PatchPlan, at_P: Ints, part: slice, view: int) -> Ints:
    """First position of windows along an axis: of the patches' own windows, or of the windows of another scale."""
    if view == 0:
        return at_P[part]
    scene, scale = plan.scene_P[part], plan.scale_P[part]
    return around(at_P[part], plan.side_SC[scene, scale], plan.side_SC[scene, scale + view])


def _place(plan: PatchPlan, reach: int) -> tuple[Ints, NDArray[np.uint16], int]:
    """The square and the strip in which each patch begins, and the number of squares."""
    rows, cols = _Pieces(plan, plan.row_P, reach), _Pieces(plan, plan.col_P, reach)
    end_G = np.cumsum(rows.count_G * cols.count_G)
    begin_G = end_G - rows.count_G * cols.count_G
    square_P, strip_P = np.empty(len(plan), np.int32), np.empty(len(plan), np.uint16)
    for part in _parts(len(plan)):
        group, shift, _ = _levels(plan, part)
        row, col = plan.row_P[part] >> shift, plan.col_P[part] >> shift
        down, across = rows.of(row, group), cols.of(col, group)
        square_P[part] = begin_G[group] + down * cols.count_G[group] + across
        strip_P[part] = row // plan.chunk - (rows.low_G[group] + down * rows.size_G[group]) // plan.chunk
    return square_P, strip_P, int(end_G[-1])


class _Pieces:
    """The positions of each group along an axis, cut into equal pieces of about `reach`, so that no narrow piece is
    left at the end."""

    def __init__(self, plan: PatchPlan, at_P: Ints, reach: int) -> None:
        groups = len(plan.scenes) * (int(plan.level_SC.max()) + 1)
        self.low_G, high_G = np.full(groups, FAR_POSITION, np.int64), np.full(groups, -FAR_POSITION, np.int64)
        for part in _parts(len(plan)):
            group, shift, _ = _levels(plan, part)
            at = (at_P[part] >> shift).astype(np.int64)
            np.minimum.at(self.low_G, group, at)
            np.maximum.at(high_G, group, at)
        span_G = np.maximum(1, high_G - self.low_G + 1)
        self.count_G = np.maximum(1, (span_G + reach // 2) // reach)
        self.size_G = -(-span_G // self.count_G)

    def of(self, at: Ints, group: Ints) -> Ints:
        """The piece that contains each position."""
        pieces: Ints = ((at - self.low_G[group]) // self.size_G[group]).astype(np.int32)
        return pieces


def _levels(plan: PatchPlan, part: slice, view: int = 0) -> tuple[Ints, NDArray[np.int8], Ints]:
    """Of some patches: the group, the level that is read, and the side of the window in pixels of that level. `view`
    selects a scale of concentric patches."""
    at = plan.scene_P[part], plan.scale_P[part] + view
    level = plan.level_SC[at]
    return plan.scene_P[part] * (int(plan.level_SC.max()) + 1) + level, level, -(-plan.side_SC[at] >> level)


def _parts(count: int) -> Iterator[slice]:
    """Slices of a million patches. They keep temporary arrays small compared with the plan."""
    return (slice(first, first + 2**20) for first in range(0, count, 2**20))


def _sequence(weight_P: NDArray[np.float32], squares: _Squares, walks_per_round: int, seed: int, epoch: int) -> Ints:
    """Draws, walks and rounds of an epoch: the list of its ids."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch))))
    ids_P = _draws(weight_P, generator)
    generator.shuffle(ids_P)
    place_P = np.arange(len(ids_P), dtype=np.int32)
    square_P = squares.square_P[ids_P]
    walk_P = (np.cumsum(squares.walks_W) - squares.walks_W).astype(np.int32)[square_P]
    walk_P += place_P % squares.walks_W[square_P]  # at random, as the places are
    round_V = generator.permutation(int(squares.walks_W.sum())) // walks_per_round
    key_P = round_V[walk_P]
    key_P *= int(squares.strip_P.max()) + 1
    key_P += squares.strip_P[ids_P]
    key_P <<= 32
    key_P |= place_P  # sorting it with the key keeps the shuffle, and needs no array of indices
    key_P.sort()
    key_P &= 2**32 - 1
    return ids_P[key_P]


def _draws(weight_P: NDArray[np.float32], generator: np.random.Generator) -> Ints:
    """The patches drawn in an epoch, in ascending order, as many as there are patches. Each is drawn its expected
    number of times, rounded up or down."""
    ids_P = np.arange(len(weight_P), dtype=np.int32)
    if weight_P.min() == weight_P.max():
        return ids_P
    end_P = np.cumsum(weight_P, dtype=np.float64)
    end_P /= end_P[-1]  # first, so that the end is exactly 1
    end_P *= len(weight_P)
    end_P += generator.random()
    whole_P = np.minimum(end_P, len(weight_P)).astype(np.int64)
    return np.repeat(ids_P, np.diff(whole_P, prepend=0))


_LOCK = threading.RLock()
_SQUARES: WeakKeyDictionary[PatchPlan, dict[Hashable, _Squares]] = WeakKeyDictionary()
_EPOCHS: WeakKeyDictionary[PatchPlan, dict[Hashable, Ints]] = WeakKeyDictionary()


def _squares_of(plan: PatchPlan, batch: int) -> _Squares:
    return _kept(_SQUARES, plan, batch, 1, lambda: _choose(plan, batch))


def _kept(shelf: WeakKeyDictionary[PatchPlan, dict[Hashable, T]], plan: PatchPlan, key: Hashable, most: int,
             make: Callable[[], T]) -> T:
    """The cached result for a plan and a key; computed if it is missing. The newest `most` results are kept as long as
    the plan exists. One thread computes at a time."""
    with _LOCK:
        made = shelf.setdefault(plan, {})
        if key not in made:
            while len(made) >= most:
                del made[next(iter(made))]
            made[key] = make()
        return made[key]
