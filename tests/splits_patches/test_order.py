"""The order: exactly once, whole batches, whatever the workers; weights; and reads that stay local."""

import gc
import weakref
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from swath.patches import ordering
from swath.patches.planning import PatchPlan

WORKERS = (1, 2, 3, 4, 6, 8)


def plan_of(count: int, weights: NDArray[np.float64] | None = None) -> PatchPlan:
    """So many windows of 8 px on one spot."""
    zeros = np.zeros(count, np.int32)
    return planned(np.stack([zeros] * 4), 8, weights=weights)


def grid_plan(*, size: int = 256, stride: int = 128, side: int = 4096, scenes: int = 3,
              scales: tuple[float, ...] = (1.0,), weights: NDArray[np.float64] | None = None) -> PatchPlan:
    """Every window of some square scenes, at each scale."""
    parts = []
    for scene in range(scenes):
        for number, scale in enumerate(scales):
            at = np.arange(0, side - round(size * scale) + 1, round(stride * scale))
            rows, cols = (axis.ravel() for axis in np.meshgrid(at, at, indexing="ij"))
            parts.append(np.stack([np.full(len(rows), scene), rows, cols, np.full(len(rows), number)]))
    return planned(np.concatenate(parts, axis=1).astype(np.int32), size, scales, weights)


def planned(patches_4P: NDArray[np.int32], size: int, scales: tuple[float, ...] = (1.0,),
            weights: NDArray[np.float64] | None = None) -> PatchPlan:
    """The plan of patches given as scenes, rows, cols and scales."""
    scene_P, row_P, col_P, scale_P = patches_4P
    scenes = int(scene_P.max()) + 1
    return PatchPlan(
        size=size, scales=scales, scenes=tuple(f"s{i}" for i in range(scenes)), scene_P=scene_P, row_P=row_P,
        col_P=col_P, scale_P=scale_P.astype(np.uint8),
        weight_P=np.broadcast_to(np.float32(1), len(scene_P)) if weights is None else weights.astype(np.float32),
        side_SC=np.array([[round(size * s) for s in scales]] * scenes, np.int32),
        level_SC=np.array([[int(np.log2(s)) for s in scales]] * scenes, np.int8), chunk=256, shard=2048, pixel_bytes=4,
        class_pixels_SK=np.zeros((len(scales), 1)),
        drawn_class_pixels_SK=np.zeros((len(scales), 1)), exact=1.0, notes=(), cells=None)


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 50), batch=st.integers(1, 24), seed=st.integers(0, 9))
def test_every_patch_is_drawn_once_an_epoch(count: int, batch: int, seed: int) -> None:
    plan = plan_of(count)
    stream = np.concatenate([ordering.batch(plan, seed, 0, k, batch) for k in range(-(-3 * count // batch))])
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))
        assert sorted(ordering.sequence(plan, seed, epoch, batch).tolist()) == list(range(count))


@settings(deadline=None, max_examples=20)
@given(size=st.sampled_from([100, 256, 300]), stride=st.integers(90, 300), seed=st.integers(0, 3),
       scales=st.sampled_from([(1.0,), (1.0, 2.0, 4.0), (1.5,)]), batch=st.sampled_from([1, 7, 24]))
def test_every_window_of_scenes_is_drawn_once_an_epoch(size: int, stride: int, seed: int, scales: tuple[float, ...],
                                                       batch: int) -> None:
    plan = grid_plan(size=size, stride=stride, side=1500, scenes=2, scales=scales)
    stream = np.concatenate([ordering.batch(plan, seed, 0, k, batch) for k in range(-(-2 * len(plan) // batch))])
    for epoch in range(2):
        assert sorted(stream[epoch * len(plan):][:len(plan)].tolist()) == list(range(len(plan)))


@settings(deadline=None, max_examples=25)
@given(start=st.integers(0, 400), workers=st.sampled_from(WORKERS), resumed=st.sampled_from(WORKERS))
def test_batches_depend_on_neither_workers_nor_resumption(start: int, workers: int, resumed: int
                                                         ) -> None:
    plan = grid_plan(side=2048, scenes=2)

    def run(first: int, last: int, world_size: int) -> list[int]:
        fresh = replace(plan)  # as in another process: nothing is kept for it
        return [i for k in range(first, last) for rank in range(world_size)
                for i in ordering.share(ordering.batch(fresh, 5, 0, k, 24), rank, world_size).tolist()]

    undisturbed = np.concatenate([ordering.batch(plan, 5, 0, k, 24) for k in range(start + 6)]).tolist()
    assert run(start, start + 3, workers) + run(start + 3, start + 6, resumed) == undisturbed[start * 24:]


def test_epochs_and_seeds_differ() -> None:
    plan = grid_plan(side=2048)
    first = ordering.sequence(plan, 0, 0, 16)
    assert (first != ordering.sequence(plan, 0, 1, 16)).any()
    assert (first != ordering.sequence(plan, 1, 0, 16)).any()
    np.testing.assert_array_equal(first, ordering.sequence(plan, 0, 0, 16))


@settings(deadline=None, max_examples=30)
@given(weights=st.lists(st.floats(0, 50, width=32), min_size=2, max_size=60).filter(lambda w: sum(w) > 1),
       seed=st.integers(0, 99))
def test_each_patch_is_drawn_as_often_as_its_weight_says(weights: list[float], seed: int) -> None:
    plan = plan_of(len(weights), np.array(weights))
    drawn = np.bincount(ordering.sequence(plan, seed, 0, 4), minlength=len(weights))
    expected = np.array(weights) / sum(weights) * len(weights)
    assert drawn.sum() == len(weights)
    assert (drawn >= np.floor(expected - 1e-6)).all()
    assert (drawn <= np.ceil(expected + 1e-6)).all()


def test_draws_by_weight_are_unbiased() -> None:
    plan = plan_of(5, np.array([0.0, 0.3, 1, 1.2, 2.5]))
    drawn = np.bincount(np.concatenate([ordering.sequence(plan, 0, e, 2) for e in range(2000)]), minlength=5)
    np.testing.assert_allclose(drawn / drawn.sum(), [0, 0.06, 0.2, 0.24, 0.5], atol=0.01)


@pytest.mark.parametrize(("size", "stride", "scales"), [(256, 128, (1.0,)), (256, 64, (1.0,)), (200, 200, (1.0,)),
                                                        (256, 128, (1.0, 2.0, 4.0))])
def test_a_lane_stays_on_its_walk(size: int, stride: int, scales: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
                                  ) -> None:
    """With one walk to a round, lanes leave their squares no more often than there are walks, and two each."""
    monkeypatch.setattr(ordering, "ROUND_BYTES", 0)
    batch, plan = 24, grid_plan(size=size, stride=stride, scales=scales, side=6000)
    squares = ordering._squares(plan, ordering.reach(plan, batch))
    lanes_TL = np.stack([ordering.batch(plan, 0, 0, k, batch) for k in range(len(plan) // batch)])
    changes = (np.diff(squares.square_P[lanes_TL], axis=0) != 0).sum()
    assert changes <= squares.walks_W.sum() + 2 * batch
    level_P = plan.level_SC[plan.scene_P, plan.scale_P]
    for at_P in (plan.row_P, plan.col_P):  # and all of a square is near
        spread = [np.ptp(at_P[squares.square_P == w] >> level_P[squares.square_P == w])
                  for w in np.unique(squares.square_P)]
        assert max(spread) <= 1.5 * squares.reach


@pytest.mark.parametrize(("size", "stride", "scales", "most"), [
    (256, 256, (1.0,), 1.01), (256, 128, (1.0,), 0.65), (256, 64, (1.0,), 0.65), (200, 200, (1.0,), 1.3),
    (256, 256, (1.0, 2.0, 4.0), 1.05)])
@pytest.mark.parametrize("workers", [1, 3, 24])
def test_few_chunks_are_decoded_twice(size: int, stride: int, scales: tuple[float, ...], most: float, workers: int
                                      ) -> None:
    """Bytes of chunks that a rank misses in a cache of `cache_bytes`, over bytes of its windows."""
    batch, plan = 24, grid_plan(size=size, stride=stride, scales=scales, side=8192)
    room = ordering.cache_bytes(plan, batch, workers) // (plan.chunk**2 * plan.pixel_bytes)
    cache: OrderedDict[tuple[int, ...], None] = OrderedDict()
    missed = wanted = 0.0
    for k in range(min(len(plan), 8000) // batch):
        for i in ordering.share(ordering.batch(plan, 0, 0, k, batch), workers // 2, workers).tolist():
            level = int(plan.level_SC[plan.scene_P[i], plan.scale_P[i]])
            row, col = int(plan.row_P[i]) >> level, int(plan.col_P[i]) >> level
            wanted += (size / plan.chunk) ** 2
            for r in range(row // 256, (row + size - 1) // 256 + 1):
                for c in range(col // 256, (col + size - 1) // 256 + 1):
                    place = (int(plan.scene_P[i]), level, r, c)
                    missed += place not in cache
                    cache[place] = None
                    cache.move_to_end(place)
                    if len(cache) > room:
                        cache.popitem(last=False)
    assert missed / wanted <= most


def test_squares_are_small_at_overlaps_and_wide_where_edges_cost() -> None:
    assert ordering.reach(grid_plan(size=256, stride=128), 16) == 512
    assert ordering.reach(grid_plan(size=256, stride=256), 16) == 512
    assert ordering.reach(grid_plan(size=200, stride=200, side=8192), 16) == 2048


def test_the_cache_is_bounded_and_shared_among_the_ranks() -> None:
    plan = grid_plan(size=256, stride=128, side=8192)
    whole = ordering.cache_bytes(plan, 16, 1)
    assert ordering.MIN_CACHE_BYTES < whole <= ordering.LANES_BYTES
    assert ordering.cache_bytes(plan, 16, 2) == pytest.approx(whole / 2)
    assert ordering.cache_bytes(plan, 16, 16) == ordering.MIN_CACHE_BYTES


def test_a_plan_is_not_kept_alive_by_its_order() -> None:
    plan = grid_plan(side=1024)
    ordering.batch(plan, 0, 0, 0, 4)
    gone = weakref.ref(plan)
    del plan
    gc.collect()
    assert gone() is None


@given(share=st.integers(1, 8), workers=st.sampled_from([1, 2, 4, 8]))
def test_ranks_divide_the_batch_among_them(share: int, workers: int) -> None:
    ids = ordering.batch(plan_of(100), 0, 0, 3, share * workers)
    parts = [ordering.share(ids, rank, workers) for rank in range(workers)]
    assert np.concatenate(parts).tolist() == ids.tolist()
    assert {len(part) for part in parts} == {share}
