"""Windows cover every pixel, and their weights sum to one at each."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swath.geometry import around, side_of, starts, stride_of
from swath.prediction.windows import axis, finished, grid_of, lattice, support, taps

LENGTHS = st.integers(1, 300)
SIDES = st.integers(1, 100)
OVERLAPS = st.floats(0, 0.95)


@pytest.mark.parametrize(("length", "side", "stride", "expected"), [
    (10, 4, 2, [0, 2, 4, 6]),
    (11, 4, 2, [0, 2, 4, 6, 7]),
    (10, 4, 4, [0, 4, 6]),
    (8, 4, 4, [0, 4]),
    (4, 4, 2, [0]),
    (3, 4, 2, [0]),
    (1, 1, 1, [0]),
    (3, 1, 1, [0, 1, 2]),
])
def test_starts_are_regular_and_the_last_is_flush(length, side, stride, expected):
    assert starts(length, side, stride).tolist() == expected


@pytest.mark.parametrize(("side", "overlap", "expected"), [(256, 0.5, 128), (5, 0.5, 2), (4, 0, 4), (4, 0.99, 1)])
def test_the_stride_is_what_the_overlap_leaves(side, overlap, expected):
    assert stride_of(side, overlap) == expected


@given(LENGTHS, SIDES, OVERLAPS)
def test_weights_sum_to_one_at_every_pixel(length, side, overlap):
    windows = axis(length, side, overlap)
    sums, largest = np.zeros(length + side), 0.0
    for index, start in enumerate(windows.starts):
        weights = windows.weights(index)
        assert weights.dtype == np.float32
        assert len(weights) == side
        sums[start:start + side] += weights
        largest = max(largest, weights.max())
    np.testing.assert_allclose(sums[:length], 1, rtol=1e-5)
    assert not sums[length:].any(), "nothing is given to pixels past the end"
    assert largest <= 1


def test_the_outermost_pixel_has_its_full_weight():
    windows = axis(5000, 1024, 0.5)
    assert windows.weights(0)[0] == 1
    assert windows.weights(len(windows.starts) - 1)[-1] == 1


def test_the_middle_of_a_window_weighs_more_than_its_edge():
    weights = axis(1000, 100, 0.5).weights(5)
    assert weights[50] > 0.99
    assert 0 < weights[0] < 0.001


@given(LENGTHS, SIDES, OVERLAPS, st.data())
def test_touching_windows_are_those_that_share_a_pixel(length, side, overlap, data):
    first = data.draw(st.integers(0, length - 1))
    past = data.draw(st.integers(first + 1, length))
    windows = axis(length, side, overlap)
    expected = [i for i, start in enumerate(windows.starts) if start < past and start + side > first]
    assert list(windows.touching(first, past)) == expected


def test_a_lattice_lies_on_the_pixels_of_its_patches():
    fine = lattice((10, 6), 4, 0.5, 4)
    assert (fine.grid, fine.side) == (1, 4)
    assert fine.touching(((0, 10), (0, 6))) == (range(4), range(2))
    assert fine.touching(((9, 10), (0, 1))) == (range(3, 4), range(1))
    coarse = lattice((21, 13), 16, 0.5, 4)
    assert (coarse.grid, coarse.side) == (4, 16)
    assert (coarse.rows.length, coarse.cols.length) == (6, 4)
    assert [coarse.corner(i, 0) for i in range(2)] == [(0, 0), (8, 0)], "the last reaches over the scene's end"


@pytest.mark.parametrize(("side", "size", "expected"), [
    (256, 256, 1), (512, 256, 2), (1024, 256, 4), (768, 256, 2), (2000, 512, 2), (4000, 512, 4), (1031, 256, 1),
    (1000, 512, 1), (32, 256, 1)])
def test_the_grid_is_a_power_of_two_that_divides_the_window(side, size, expected):
    assert grid_of(side, size) == expected


GRIDS = st.sampled_from([1, 2, 4, 8])


@given(st.integers(1, 40), GRIDS, st.data())
def test_a_scene_is_interpolated_from_its_grid_as_torch_does(length, grid, data):
    first = data.draw(st.integers(0, length * grid - 1))
    past = data.draw(st.integers(first + 1, length * grid))
    values = np.random.default_rng(length).random(length, np.float32)
    low, high, share = taps(first, past, grid, length)
    expected = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], scale_factor=grid, mode="linear")
    np.testing.assert_allclose(values[low] * (1 - share) + values[high] * share, expected[0, 0, first:past],
                               rtol=1e-5)
    assert support(first, past, grid, length) == (low[0], high[-1] + 1)


@given(st.integers(1, 40), GRIDS)
def test_rows_are_finished_as_soon_as_all_that_they_need_is(done, grid):
    _, high, _ = taps(0, 50 * grid, grid, 50)
    assert finished(done, grid) == np.flatnonzero(high < done)[-1] + 1


@given(st.sampled_from([64, 256, 500, 512]), st.floats(1 / 8, 64))
def test_a_side_lies_on_the_grid_of_its_scale(size, scale):
    side = side_of(size, scale)
    assert abs(side - size * scale) <= max(0.5, scale / 2)
    if scale >= 1 and side >= 2 * size:
        assert grid_of(side, size) > scale / 4
        assert side / grid_of(side, size) < 4 * size


@given(st.integers(-100, 100), st.integers(1, 50), st.integers(1, 50))
def test_a_window_around_another_has_its_centre(start, side, other):
    assert abs(2 * around(start, side, other) + other - (2 * start + side)) <= 1


def test_a_long_axis_keeps_positions_and_no_weights():
    windows = axis(100_000, 512, 0.75)
    assert windows.starts.nbytes + windows.totals.nbytes < 1_000_000


@pytest.mark.parametrize(("length", "side", "overlap"), [(0, 4, 0.5), (4, 0, 0.5), (4, 4, 1.0), (4, 4, -0.1)])
def test_what_makes_no_sense_is_refused(length, side, overlap):
    with pytest.raises(ValueError, match="must be"):
        axis(length, side, overlap)
