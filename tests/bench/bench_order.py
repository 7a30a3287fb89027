"""What the order costs and how well it mixes, by simulation: no store, no pixels. Prints the same tables every time.

    python tests/bench/bench_order.py

Plans are those of 41 scenes of 9,000 x 9,500 px (LandCover.ai's number and size), three bands of bytes and labels.

*Reading*: bytes of decoded chunks, over bytes of the windows, that each of W processes fetches through a cache of its
own of `order.cache_bytes`, least recently used out first. *Mixing*: a value of the ground, smooth over some hundred
pixels and different from scene to scene, as classes are, is averaged over each batch; the tables say how much alike
neighbouring batches are, and how far the scenes' shares in a few batches are from the plan's, against an order that is
random throughout.
"""

import functools
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from swath.geometry import starts
from swath.patches import ordering
from swath.patches.planning import PatchPlan

SHAPE = (9000, 9500)
CELL = 50
"""Pixels of a value of the ground."""
CHUNK, SHARD, PIXEL_BYTES = 256, 2048, 4
LIMIT = 1.3
"""Bytes fetched over bytes of the windows that are wanted."""
SIMULATED = 24_000
"""Patches that are read in a simulation, over the simulated ranks."""
BATCHES = (8, 16, 32, 64)
WORKERS = (1, 2, 4, 8, 16, 32, 64)
MANY = (1, 10, 100)
"""Numbers of successive batches whose composition is looked at."""
MIXED = (200, 256)
"""Sizes of the patches of cases whose mixing is looked at."""
Array = NDArray[np.float64]
Ints = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A plan to simulate."""

    size: int
    stride: int
    scales: tuple[float, ...] = (1.0,)
    kept: float = 1.0
    """Share of the patches that a filter keeps: those of the highest value of the ground, which lie together."""
    scattered: bool = False
    """Whether they lie anywhere instead."""
    weighted: bool = False
    """Whether patches are drawn by weight: log-normal, so that some come many times and some hardly ever."""
    scenes: int = 41

    def __str__(self) -> str:
        scales = "" if self.scales == (1.0,) else " at " + "+".join(f"{s:g}" for s in self.scales)
        return (f"{self.size}/{self.stride}{scales}" + (f", {self.kept:.0%} kept" if self.kept < 1 else "")
                + (", scattered" if self.scattered else "")
                + (", weighted" if self.weighted else ""))


CASES = (
    Case(size=256, stride=256), Case(size=256, stride=128), Case(size=256, stride=64), Case(size=256, stride=200),
    Case(size=512, stride=512), Case(size=512, stride=128), Case(size=200, stride=200), Case(size=300, stride=300),
    Case(size=1000, stride=1000), Case(size=512, stride=512, scales=(1.953125,)), Case(size=128, stride=16, scenes=8),
    Case(size=256, stride=256, scales=(1.0, 2.0, 4.0)), Case(size=256, stride=128, scales=(1.0, 1.5, 4.0)),
    Case(size=256, stride=128, kept=0.1),
    Case(size=256, stride=128, kept=0.1, scattered=True), Case(size=256, stride=128, weighted=True),
)


@functools.cache
def ground(scene: int) -> Array:
    """The values of a scene's ground by cell: half of their variance between scenes, half smooth over about 400 px."""
    generator = np.random.default_rng((1, scene))
    smooth = np.asarray(cv2.GaussianBlur(generator.standard_normal([n // CELL + 1 for n in SHAPE]), (0, 0), 8),
                        np.float64)
    of_scene = float(generator.standard_normal())
    return np.asarray(smooth / smooth.std() + of_scene)


def values(scene_P: Ints, row_P: Ints, col_P: Ints, side_P: Ints) -> Array:
    """The ground's value at the centre of each window."""
    found = np.empty(len(scene_P))
    for scene in np.unique(scene_P).tolist():
        mine = scene_P == scene
        centre = (values_P[mine] + side_P[mine] // 2 for values_P in (row_P, col_P))
        found[mine] = ground(scene)[tuple(values_P // CELL for values_P in centre)]
    return found


def plan_of(case: Case) -> PatchPlan:
    """The plan of a case: every window of scenes that are all of one size, or those that its filter keeps."""
    generator = np.random.default_rng(0)
    sides = np.array([round(case.size * scale) for scale in case.scales], np.int32)
    levels = np.array([math.floor(math.log2(scale)) for scale in case.scales], np.int8)
    parts: list[NDArray[np.int32]] = []
    for scene in range(case.scenes):
        for number, side in enumerate(sides.tolist()):
            stride = round(case.stride * case.scales[number])
            rows, cols = (starts(length, side, stride) for length in SHAPE)
            grid = np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).reshape(-1, 2)
            parts.append(np.column_stack([np.full(len(grid), scene), grid, np.full(len(grid), number)])
                         .astype(np.int32))
    scene_P, row_P, col_P, scale_P = np.concatenate(parts).T.copy()
    if case.kept < 1:
        rank_P = (generator.random(len(scene_P)) if case.scattered
                  else values(scene_P, row_P, col_P, sides[scale_P]))
        kept = rank_P >= np.quantile(rank_P, 1 - case.kept)
        scene_P, row_P, col_P, scale_P = scene_P[kept], row_P[kept], col_P[kept], scale_P[kept]
    count = len(scene_P)
    weight_P = (generator.lognormal(0, 1, count).astype(np.float32) if case.weighted
                else np.broadcast_to(np.float32(1), count))
    return PatchPlan(
        size=case.size, scales=case.scales, scenes=tuple(f"s{i}" for i in range(case.scenes)), scene_P=scene_P,
        row_P=row_P, col_P=col_P, scale_P=scale_P.astype(np.uint8), weight_P=weight_P,
        side_SC=np.tile(sides, (case.scenes, 1)), level_SC=np.tile(levels, (case.scenes, 1)), chunk=CHUNK, shard=SHARD,
        pixel_bytes=PIXEL_BYTES, class_pixels_SK=np.zeros((len(case.scales), 1)),
        drawn_class_pixels_SK=np.zeros((len(case.scales), 1)),
        exact=1.0, notes=(), cells=None)


class Windows:
    """The windows of a plan as squares of a level, and the chunks that they touch."""

    def __init__(self, plan: PatchPlan) -> None:
        level_P = plan.level_SC[plan.scene_P, plan.scale_P]
        self.array_P = plan.scene_P * 8 + level_P
        self.row_P, self.col_P = plan.row_P >> level_P, plan.col_P >> level_P
        self.side_P = -(-plan.side_SC[plan.scene_P, plan.scale_P] >> level_P)
        self.chunk, self.pixel_bytes = plan.chunk, plan.pixel_bytes

    def touched(self, ids: NDArray[np.int64]) -> Iterable[tuple[float, list[int]]]:
        """Of each patch: its size in chunks, and the chunks' numbers."""
        at = [values[ids] for values in (self.array_P, self.row_P, self.col_P, self.side_P)]
        for array, row, col, side in zip(*(values.tolist() for values in at), strict=True):
            cols = range(col // self.chunk, (col + side - 1) // self.chunk + 1)
            yield ((side / self.chunk) ** 2,
                   [(array << 40) | (r << 20) | c
                    for r in range(row // self.chunk, (row + side - 1) // self.chunk + 1) for c in cols])


def fetched(windows: Windows, ids_TN: NDArray[np.int64], world_size: int, cache_bytes: int) -> float:
    """Bytes of chunks that some of the ranks decode, over bytes of their windows. T batches of N."""
    room = cache_bytes // (windows.chunk**2 * windows.pixel_bytes)
    ranks = sorted({0, world_size // 3, world_size - 1})
    lanes = ids_TN.shape[1] // world_size
    steps = min(len(ids_TN), SIMULATED // (lanes * len(ranks)))
    missed = wanted = 0.0
    for rank in ranks:
        cache: OrderedDict[int, None] = OrderedDict()
        for area, chunks in windows.touched(ids_TN[:steps, rank * lanes:(rank + 1) * lanes].ravel()):
            wanted += area
            for chunk in chunks:
                if chunk in cache:
                    cache.move_to_end(chunk)
                    continue
                missed += 1
                cache[chunk] = None
                if len(cache) > room:
                    cache.popitem(last=False)
    return missed / wanted


def epoch_of(plan: PatchPlan, batch: int) -> NDArray[np.int64]:
    """The whole batches of an epoch, or as many as a simulation needs: (T, N)."""
    return np.stack([ordering.batch(plan, 0, 0, index, batch) for index in range(min(4000, len(plan) // batch))])


def at_random(plan: PatchPlan, ids_TN: NDArray[np.int64]) -> NDArray[np.int64]:
    """As many batches in an order that is random throughout."""
    generator, share_P = np.random.default_rng(2), plan.weight_P / plan.weight_P.sum(dtype=np.float64)
    drawn = generator.choice(len(plan), ids_TN.size, p=share_P) if np.ptp(share_P) else generator.permutation(len(plan))
    return drawn[:ids_TN.size].reshape(ids_TN.shape)


def likeness(value_P: Array, ids_TN: NDArray[np.int64]) -> float:
    """Correlation of the mean values of neighbouring batches."""
    mean_T = value_P[ids_TN].mean(axis=1)
    return float(np.corrcoef(mean_T[:-1], mean_T[1:])[0, 1])


def distance(plan: PatchPlan, ids_TN: NDArray[np.int64], batches: int) -> float:
    """Mean total variation between the scenes' shares in so many successive batches and those in the plan."""
    share_S = np.bincount(plan.scene_P, plan.weight_P, len(plan.scenes)) / plan.weight_P.sum(dtype=np.float64)
    pieces = [ids_TN[at:at + batches] for at in range(0, len(ids_TN) - batches + 1, batches)]
    found = [np.bincount(plan.scene_P[piece.ravel()], minlength=len(share_S)) / piece.size for piece in pieces]
    return float(np.mean([np.abs(found_S - share_S).sum() / 2 for found_S in found]))


def reading(cases: Sequence[Case]) -> Table:
    """Bytes fetched over bytes of the windows, by number of workers; what is above the limit stands out."""
    table = Table("size/stride", "patches", "batch", "reach", "walk", "round", "cache MB",
                  *(f"W={workers}" for workers in WORKERS), title="Bytes of chunks over bytes of windows")
    for case in cases:
        plan = plan_of(case)
        windows = Windows(plan)
        for batch in BATCHES:
            ids_TN = epoch_of(plan, batch)
            squares = ordering._squares_of(plan, batch)
            ratios = [fetched(windows, ids_TN, workers, ordering.cache_bytes(plan, batch, workers))
                      for workers in WORKERS if workers <= batch]
            table.add_row(
                str(case), f"{len(plan):,}", str(batch), str(ordering.reach(plan, batch)),
                f"{len(plan) / squares.walks_W.sum():.1f}", str(ordering._walks_per_round(squares, batch)),
                f"{ordering.cache_bytes(plan, batch, 1) >> 20}",
                *(f"{ratio:.2f}" if ratio <= LIMIT else f"[bold red]{ratio:.2f}[/]" for ratio in ratios))
        table.add_section()
    return table


def mixing(cases: Sequence[Case]) -> Table:
    """How much alike neighbouring batches are, and how far the scenes' shares are from the plan's."""
    table = Table("size/stride", "batch", "correlation of neighbours", "at random",
                  *(title for many in MANY for title in (f"distance, {many} batch{'es' * (many > 1)}", "at random")),
                  title="Mixing: the order, and one that is random throughout")
    for case in cases:
        plan = plan_of(case)
        value_P = values(plan.scene_P, plan.row_P, plan.col_P, plan.side_SC[plan.scene_P, plan.scale_P])
        for batch in BATCHES:
            ids_TN = epoch_of(plan, batch)
            random_TN = at_random(plan, ids_TN)
            table.add_row(str(case), str(batch), f"{likeness(value_P, ids_TN):.2f}",
                          f"{likeness(value_P, random_TN):.2f}",
                          *(f"{distance(plan, order_TN, many):.3f}" for many in MANY
                            for order_TN in (ids_TN, random_TN)))
        table.add_section()
    return table


if __name__ == "__main__":
    console = Console(width=150)
    console.print(reading(CASES))
    console.print(mixing([case for case in CASES if case.size in MIXED]))
