"""Filters and balance of patches, against what a loop over their pixels gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from swath.config import PatchesConfig
from swath.errors import ConfigError, DataError
from swath.patches import relevance
from swath.patches.relevance import RelevanceFilter

CLASSES = ("water", "road", "wood")
PIXELS = hnp.arrays(np.int64, st.tuples(st.integers(1, 8), st.just(3)), elements=st.integers(0, 20) | st.just(0))
SIDE = 8


def kept(pixels_PK: NDArray[np.int64], **settings: object) -> list[bool]:
    rules = relevance.rules(PatchesConfig(**settings), CLASSES)  # type: ignore[arg-type]
    return RelevanceFilter(rules).keep(pixels_PK.astype(float), SIDE).tolist()


@given(pixels=PIXELS, bound=st.sampled_from([0.05, 0.25, 0.5, 1.0]))
def test_the_tutorials_rule(pixels: NDArray[np.int64], bound: float) -> None:
    expected = []
    for counts in pixels:
        _, n = np.unique(np.repeat(np.arange(3), counts), return_counts=True)
        expected.append(len(n) > 0 and bool(1 - n[0] / n.sum() >= bound - 1e-9))
    assert kept(pixels, min_not_lowest=bound) == expected


@given(pixels=PIXELS, foreground=st.sampled_from([0.0, 0.1, 0.5, 1.0]), ignored=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_foreground_and_ignored_shares(pixels: NDArray[np.int64], foreground: float, ignored: float) -> None:
    expected = [bool(n.sum() > 0 and n[1] + n[2] >= foreground * n.sum() - 1e-6
                     and SIDE**2 - n.sum() <= ignored * SIDE**2 + 1e-6) for n in pixels]
    assert kept(pixels, min_foreground=foreground, background=("water",), max_ignored=ignored) == expected


def test_foreground_needs_a_background() -> None:
    with pytest.raises(ConfigError, match=r"patches.background must be given if patches.min_foreground is above 0"):
        PatchesConfig(min_foreground=0.05)


def test_the_sieve_says_what_each_filter_left() -> None:
    config = PatchesConfig(min_foreground=0.9, background=("water",), max_ignored=0.5)
    relevant = RelevanceFilter(relevance.rules(config, CLASSES))
    relevant.keep(np.array([[44.0, 20, 0], [0, 0, 0], [64, 0, 0]]), SIDE)
    assert relevant.story() == "2 have labels; 0 pass patches.min_foreground 0.9 (the most that any has: 0.31)"
    assert (relevant.seen, relevant.dropped) == (3, 2)
    culprit = relevant.culprit()
    assert culprit is not None
    assert culprit.field == "patches.min_foreground"


@given(pixels=PIXELS, balance=st.sampled_from(["class", "sqrt"]))
def test_weights_are_the_expected_draws(pixels: NDArray[np.int64], balance: str) -> None:
    pixels[0] += 1  # some class occurs
    total, count = pixels.sum(axis=0), len(pixels)
    weights = relevance.balance(PatchesConfig(balance=balance), CLASSES, total.astype(float)).weights(
        pixels.astype(float), total.astype(float), count)
    chance = np.zeros(count)  # of each patch, in one draw: a class is drawn, then one of its pixels
    shares = {"class": (total > 0) / (total > 0).sum(), "sqrt": np.sqrt(total) / np.sqrt(total).sum()}[balance]
    for k in np.flatnonzero(total):
        chance += shares[k] * pixels[:, k] / total[k]
    np.testing.assert_allclose(weights, chance * count)
    assert weights.mean() == pytest.approx(1)


def test_half_of_the_draws_are_for_the_named_classes() -> None:
    pixels = np.array([[60.0, 4, 0], [64, 0, 0], [0, 0, 64], [64, 0, 0]])
    total = pixels.sum(axis=0)
    balance = relevance.balance(PatchesConfig(balance="road+wood"), CLASSES, total)
    assert balance.weights(pixels, total, 4).tolist() == [1.5, 0.5, 1.5, 0.5]


def test_a_class_that_does_not_exist_or_occur_is_refused() -> None:
    with pytest.raises(DataError, match=r"patches.balance: no class 'raod' in the store; did you mean 'road'\?"):
        relevance.named(PatchesConfig(balance="wood+raod"), CLASSES)
    with pytest.raises(DataError, match=r"patches.balance: no train patch has a pixel of road"):
        relevance.balance(PatchesConfig(balance="road"), CLASSES, np.array([5.0, 0, 1]))
    assert relevance.named(PatchesConfig(balance="a+b"), ("a", "a+b")) == [1]
