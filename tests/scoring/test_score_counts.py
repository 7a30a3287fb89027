"""What is counted of a split, against plain loops and scikit-learn: pixels, boundaries, what has no prediction."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from patchstore import Store
from swath.config import Config, ScoreConfig, SplitConfig
from swath.scoring import counting, metrics
from swath.scoring.boundary import BoundaryCounts
from swath.scoring.counting import Predictions, Region
from swath.scoring.metrics import NO_PREDICTION, Counts
from swath.splits import division

K, IGNORE = 4, 200
CONFIG = Config(split=SplitConfig(val_fraction=0.5, test_fraction=0))
Bytes = NDArray[np.uint8]


def source_of(store: Store, change: Callable[[str, Bytes], Bytes], heights: Sequence[int] = (97,)) -> Predictions:
    """A source that gives `change(scene, labels)` of each whole scene, in pieces of the given heights in turn."""
    def source(regions: Sequence[Region]) -> Iterator[tuple[int, int, Bytes]]:
        for index, region in enumerate(regions):
            found = change(region.scene, mask(store, region.scene))[:, slice(*region.cols)]
            row, turn = region.rows[0], 0
            while row < region.rows[1]:
                past = min(row + heights[turn % len(heights)], region.rows[1])
                yield index, row, found[row:past]
                row, turn = past, turn + 1

    return source


def mask(store: Store, scene: str) -> Bytes:
    height, width = store.scenes[scene].shape
    return store.region(scene, "mask", (0, height), (0, width))


def plain_boundary(values: Bytes, valid: NDArray[np.bool_], k: int, distance: int) -> NDArray[np.bool_]:
    """Pixels of class k that have a valid pixel of another class within so many rows and columns, one by one."""
    found = np.zeros(values.shape, bool)
    for row, col in np.argwhere((values == k) & valid):
        window = np.s_[max(0, row - distance):row + distance + 1, max(0, col - distance):col + distance + 1]
        found[row, col] = bool(((values[window] != k) & valid[window]).any())
    return found


def plain_boundaries(labels: Bytes, predictions: Bytes, distance: int) -> NDArray[np.int64]:
    valid = labels != IGNORE
    of = [(plain_boundary(labels, valid, k, distance), plain_boundary(predictions, valid, k, distance))
          for k in range(K)]
    return np.array([[(a & b).sum(), a.sum(), b.sum()] for a, b in of])


@st.composite
def maps(draw: st.DrawFn) -> tuple[Bytes, Bytes, list[int]]:
    """Labels, predictions that often agree with them, and the heights of pieces."""
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    coarse = generator.integers(0, K, (-(-height // 4), -(-width // 4)))
    labels = np.kron(coarse, np.ones((4, 4), int))[:height, :width].astype(np.uint8)
    predictions = np.where(generator.random(labels.shape) < 0.1, generator.integers(0, K, labels.shape), labels)
    predictions[generator.random(labels.shape) < draw(st.sampled_from([0, 0.1]))] = NO_PREDICTION
    labels[generator.random(labels.shape) < draw(st.sampled_from([0, 0.2]))] = IGNORE
    return labels, predictions.astype(np.uint8), draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))


@settings(deadline=None, max_examples=150)
@given(maps(), st.integers(1, 4))
def test_boundary_pixels_are_a_plain_loops_however_rows_are_cut(
        given_maps: tuple[Bytes, Bytes, list[int]], distance: int) -> None:
    labels, predictions, heights = given_maps
    counts = BoundaryCounts(classes=K, ignore=IGNORE, distance=distance, width=labels.shape[1])
    row = turn = 0
    while row < len(labels):
        past = min(len(labels), row + heights[turn % len(heights)])
        counts.add(labels[row:past], predictions[row:past], last=past == len(labels))
        row, turn = past, turn + 1
    np.testing.assert_array_equal(counts.counts_K3, plain_boundaries(labels, predictions, distance))


def test_boundary_iou_by_hand() -> None:
    """A 9 x 9 square in a field, predicted one column to the right: rings two pixels wide."""
    labels, predictions = np.zeros((2, 21, 21), np.uint8)
    labels[6:15, 6:15], predictions[6:15, 7:16] = 1, 1
    counts = BoundaryCounts(classes=2, ignore=IGNORE, distance=2, width=21)
    counts.add(labels, predictions, last=True)
    ring = 9 * 9 - 5 * 5
    shared = sum(any((r < 8, r > 12, c < 8, c > 12)) and any((r < 8, r > 12, c < 9, c > 13))
                 for r in range(6, 15) for c in range(7, 15))
    assert counts.counts_K3[1].tolist() == [shared, ring, ring]
    assert metrics.boundary_iou(counts.counts_K3)[1] == shared / (2 * ring - shared)


@given(maps())
def test_counts_are_scikit_learns_and_uncovered_stands_apart(given_maps: tuple[Bytes, Bytes, list[int]]
                                                             ) -> None:
    labels, predictions, _ = given_maps
    counts_KP = metrics.tally(labels, predictions, K, IGNORE)
    valid = labels != IGNORE
    of_all = confusion_matrix(labels[valid], np.where(predictions == NO_PREDICTION, K, predictions)[valid],
                              labels=range(K + 1)) if valid.any() else np.zeros((K + 1, K + 1))
    np.testing.assert_array_equal(counts_KP, of_all[:K])


@pytest.mark.parametrize(("label", "prediction", "named"), [(K, 0, "label 4"), (0, K, "prediction 4"),
                                                          (IGNORE + 1, NO_PREDICTION, "label 201")])
def test_what_is_no_class_is_refused(label: int, prediction: int, named: str) -> None:
    labels, predictions = np.array([[0, label, IGNORE]], np.uint8), np.array([[0, prediction, 77]], np.uint8)
    with pytest.raises(ValueError, match=f"{named} is none of the 4 classes"):
        metrics.tally(labels, predictions, K, IGNORE)
    labels[0, 1], predictions[0, 1] = 1, 2
    assert metrics.tally(labels, predictions, K, IGNORE).sum() == 2  # under an ignored label anything may stand


def test_rates_by_hand() -> None:
    # class 0: 3 right, 1 taken for 1, 2 uncovered; class 1: 4 right, 2 taken for 0; class 2: neither
    counts = np.zeros((3, 3 + metrics.EXTRA), np.int64)
    counts[0, :4], counts[1, :4] = [3, 1, 0, 2], [2, 4, 0, 0]
    wrong, out = Counts(counts).scored("wrong"), Counts(counts).scored("out")
    np.testing.assert_array_equal(metrics.iou(wrong), [3 / 8, 4 / 7, np.nan])
    np.testing.assert_array_equal(metrics.iou(out), [3 / 6, 4 / 7, np.nan])
    np.testing.assert_array_equal(metrics.precision(wrong), [3 / 5, 4 / 5, np.nan])
    np.testing.assert_array_equal(metrics.recall(wrong), [3 / 6, 4 / 6, np.nan])
    np.testing.assert_array_equal(metrics.f1(wrong), [6 / 11, 8 / 11, np.nan])
    assert metrics.pixel_accuracy(wrong) == 7 / 12
    assert metrics.pixel_accuracy(out) == 7 / 10


@pytest.fixture
def split(store: Store) -> division.Split:
    return division.divide(store, CONFIG.split)


def test_a_shifted_map_scores_as_brute_force_says(store: Store, split: division.Split) -> None:
    def shifted(scene: str, labels: Bytes) -> Bytes:
        return np.roll(labels, (1, 1), axis=(0, 1))

    found = counting.evaluate(store, split, "val", source_of(store, shifted, (1, 50, 2, 130)), CONFIG)
    classes = len(store.classes)
    pairs = [(mask(store, scene), shifted(scene, mask(store, scene))) for scene, _ in split.scenes("val")]
    of_all = confusion_matrix(np.concatenate([a.ravel() for a, _ in pairs]),
                              np.concatenate([b.ravel() for _, b in pairs]), labels=range(classes))
    np.testing.assert_array_equal(found.confusion, of_all)
    for k, name in enumerate(found.classes):
        both = labelled = predicted = 0
        for a, b in pairs:
            near_a, near_b = ((values == k) & ~eroded(values == k, 3) for values in (a, b))
            both, labelled = both + (near_a & near_b).sum(), labelled + near_a.sum()
            predicted += near_b.sum()
        assert found.boundary_iou[name] == pytest.approx(both / (labelled + predicted - both))
    assert found.miou < 1
    assert found.boundary_miou < found.miou


def eroded(values: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """A mask less what lies within so many pixels of its contour; the frame makes none."""
    padded = np.pad(values, distance, constant_values=True)
    height, width = values.shape
    return np.logical_and.reduce([padded[r:r + height, c:c + width]
                                  for r in range(2 * distance + 1) for c in range(2 * distance + 1)])


def test_own_labels_score_one_and_another_scenes_bring_chance(store: Store, split: division.Split) -> None:
    right = counting.evaluate(store, split, "val", source_of(store, lambda _, labels: labels), CONFIG)
    assert right.miou == right.boundary_miou == right.accuracy == 1
    names = sorted(store.scenes)
    other = {name: names[(place + 3) % len(names)] for place, name in enumerate(names)}
    lying = counting.evaluate(store, split, "val", source_of(store, lambda scene, _: mask(store, other[scene])), CONFIG)
    shares = lying.confusion / lying.confusion.sum()
    chance = np.outer(shares.sum(axis=1), shares.sum(axis=0))  # labels and predictions that know nothing of each other
    assert lying.miou == pytest.approx(metrics.mean_iou(chance, lying.present_K), abs=0.06)
    assert lying.miou < 0.3


def test_uncovered_pixels_are_wrong_or_out_and_are_named(store: Store, split: division.Split) -> None:
    first = min(scene for scene, _ in split.scenes("val"))

    def holed(scene: str, labels: Bytes) -> Bytes:
        labels = labels.copy()
        if scene == first:
            labels[:40] = NO_PREDICTION
        return labels

    wrong, out = (counting.evaluate(store, split, "val", source_of(store, holed), CONFIG, uncovered=fate)
                  for fate in metrics.UNCOVERED)
    missing = 40 * store.scenes[first].shape[1]
    assert wrong.uncovered == out.uncovered == {first: missing}
    assert wrong.pixels == out.pixels + missing
    assert out.miou == out.accuracy == out.boundary_miou == 1
    assert wrong.accuracy == 1 - missing / wrong.pixels
    assert wrong.boundary_miou < 1
    assert f"{first}: {missing:,} labelled pixels have no prediction; they count as wrong" in wrong.notes
    assert wrong.protocol.digest() != out.protocol.digest()
    assert wrong.protocol.ground() == out.protocol.ground() == counting.protocol(store, split, "val", CONFIG).ground()


def test_the_protocol_tells_what_matters(store: Store, split: division.Split) -> None:
    base = counting.protocol(store, split, "val", CONFIG)
    for changed, ground in ((ScoreConfig(overlap=0.25), True), (ScoreConfig(symmetries=8), True),
                            (ScoreConfig(boundary_px=5), False)):
        other = counting.protocol(store, split, "val", replace(CONFIG, score=changed))
        assert other.digest() != base.digest()
        assert (other.ground() == base.ground()) == ground


@pytest.mark.parametrize("spoil", [
    lambda pieces: pieces[1:], lambda pieces: pieces[:-1], lambda pieces: pieces[::-1],
    lambda pieces: [(i, row, found[:, 1:]) for i, row, found in pieces], lambda pieces: []])
def test_a_source_that_breaks_its_word_is_refused(store: Store, split: division.Split,
                                                  spoil: Callable[[list[object]], list[object]]) -> None:
    whole = counting.whole(store, split, "val")
    pieces = spoil(list(source_of(store, lambda _, labels: labels)(whole)))
    with pytest.raises(ValueError, match="a source"):
        counting.count(store, split, "val", whole, lambda _: iter(pieces))  # type: ignore[arg-type, return-value]


def test_ranks_share_the_regions_and_their_sum_is_the_whole(store: Store, split: division.Split) -> None:
    whole = counting.whole(store, split, "val")
    source = source_of(store, lambda _, labels: np.roll(labels, 2, axis=0))
    alone = counting.count(store, split, "val", whole, source, boundary_px=3)
    shares = [counting.count(store, split, "val", whole, source, boundary_px=3, rank=rank, world_size=2)
              for rank in (0, 1)]
    np.testing.assert_array_equal(sum(shares), alone)
    assert all(share.any() for share in shares)
