"""Counts against a plain loop, ratios by hand, the sample's estimate by simulation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from swath.scoring import metrics

K, IGNORE = 5, 255


def plain_confusion(labels, predictions):
    counts = np.zeros((K, K), np.int64)
    for label, prediction in zip(labels.ravel().tolist(), predictions.ravel().tolist()):
        if label != IGNORE:
            counts[label, prediction] += 1
    return counts


shapes = hnp.array_shapes(max_dims=3, max_side=6)


@given(st.data(), shapes, st.sampled_from([np.uint8, np.int16, np.int64]), st.booleans(), st.booleans())
def test_counts_are_those_of_a_loop(data, shape, dtype, label_tensor, prediction_tensor):
    values = [0, 1, 2, 3, 4, IGNORE]
    labels = data.draw(hnp.arrays(np.int16, shape, elements=st.sampled_from(values)))
    predictions = data.draw(hnp.arrays(dtype, shape, elements=st.sampled_from(values[:-1])))
    given_labels = torch.from_numpy(labels) if label_tensor else labels
    given_predictions = torch.from_numpy(predictions) if prediction_tensor else predictions
    counts = metrics.confusion(given_labels, given_predictions, K, IGNORE)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, plain_confusion(labels, predictions))


def test_small_types_do_not_overflow_and_nothing_is_changed():
    labels = np.full((4, 4), 199, np.uint8)
    labels.setflags(write=False)
    counts = metrics.confusion(labels, labels, 200, IGNORE)
    assert counts[199, 199] == counts.sum() == 16
    assert (labels == 199).all()


@pytest.mark.parametrize(("label", "prediction", "names"), [
    (5, 0, "label 5"), (-1, 0, "label -1"), (0, 5, "prediction 5"), (0, -2, "prediction -2"),
    (0, 255, "prediction 255")])
def test_what_is_no_class_is_named(label, prediction, names):
    with pytest.raises(ValueError, match=names):
        metrics.confusion(np.array([1, label]), torch.tensor([1, prediction]), K, IGNORE)


def test_scores_and_shapes_are_refused():
    with pytest.raises(ValueError, match="argmax"):
        metrics.confusion(np.array([0]), np.array([0.7]), K, IGNORE)
    with pytest.raises(ValueError, match="argmax"):
        metrics.confusion(torch.tensor([0]), torch.tensor([0.7]), K, IGNORE)
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.confusion(np.zeros((2, 2), int), np.zeros(4, int), K, IGNORE)


def test_predictions_under_ignored_labels_do_not_matter():
    assert metrics.confusion(np.array([IGNORE, 1]), np.array([IGNORE, 1]), K, IGNORE).sum() == 1


def test_ratios_by_hand():
    # class 0: 3 right, 1 missed, 2 false; class 1: present, never right; class 2: absent, but predicted; 3: absent
    counts = np.array([[3, 0, 1, 0], [2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(metrics.iou(counts), [3 / 6, 0, 0, np.nan])
    present = np.array([True, True, False, False])
    assert metrics.mean_iou(counts, present) == 0.25
    assert metrics.mean_iou(counts, np.array([True, True, False, True])) == 0.25  # class 3 is not met by these counts
    assert metrics.pixel_accuracy(counts) == 0.5
    nothing = np.zeros((4, 4), np.int64)
    assert np.isnan(metrics.mean_iou(nothing, present))
    assert np.isnan(metrics.mean_iou(counts, np.zeros(4, bool)))
    assert np.isnan(metrics.pixel_accuracy(nothing))


def population(seed, blocks=400, classes=4):
    """Counts of blocks of which each has its own difficulty and mixture of classes, with strata by rarest class."""
    generator = np.random.default_rng(seed)
    share_bK = generator.dirichlet([3.0, 1.5, 0.6, 0.15], blocks)
    labels_bK = np.round(share_bK * 1000).astype(np.int64)
    skill_b = generator.beta(6, 2, blocks)
    confused_bKK = generator.dirichlet([1.0] * classes, (blocks, classes))
    p_bKK = (1 - skill_b)[:, None, None] * confused_bKK + skill_b[:, None, None] * np.eye(classes)
    counts_bKK = generator.multinomial(labels_bK, p_bKK / p_bKK.sum(-1, keepdims=True))
    stratum_b = np.where(labels_bK[:, 3] > 20, 3, np.where(labels_bK[:, 2] > 100, 2, 0))
    return counts_bKK.astype(np.int64), stratum_b


def draw(generator, stratum_b, share_h):
    """Blocks of a random sample: of each stratum its share, two at least."""
    members = {h: np.flatnonzero(stratum_b == h) for h in share_h}
    return np.concatenate([generator.choice(members[h], max(2, round(share * len(members[h]))), replace=False)
                           for h, share in share_h.items()])


def test_estimate_is_unbiased_and_its_interval_covers_the_truth():
    counts_bKK, stratum_b = population(0)
    present = np.ones(4, bool)
    truth = metrics.mean_iou(counts_bKK.sum(0), present)
    population_h = np.bincount(stratum_b)
    generator = np.random.default_rng(1)
    scores = []
    for _ in range(600):
        chosen = draw(generator, stratum_b, {0: 0.2, 2: 0.2, 3: 0.2})
        scores.append(metrics.part_score(counts_bKK[chosen], stratum_b[chosen], population_h, present))
    error, se = np.array([s.miou - truth for s in scores]), np.array([s.se for s in scores])
    assert abs(error.mean()) < 0.15 * error.std()  # the bias is small beside the error
    assert 0.85 < se.mean() / error.std() < 1.15
    assert 0.91 < np.mean(np.abs(error) < 1.96 * se) < 0.98


def test_standard_error_is_the_formula_by_differentiation():
    """A block's linearised residual is the slope of the mean IoU against that block's weight."""
    counts_bKK, stratum_b = population(7)
    present = np.array([True, False, True, True])
    chosen = draw(np.random.default_rng(8), stratum_b, {0: 0.05, 2: 0.2, 3: 0.5})
    counts_bKK, chosen_b = counts_bKK[chosen], stratum_b[chosen]
    blocks, sampled = np.bincount(stratum_b), np.bincount(chosen_b)
    weight_b = (blocks / np.maximum(sampled, 1))[chosen_b]

    def miou(weights):
        return metrics.mean_iou(np.tensordot(weights, counts_bKK, 1), present)

    step = 1e-4 * np.eye(len(chosen))
    slope_b = np.array([(miou(weight_b + e) - miou(weight_b - e)) / 2e-4 for e in step])
    variance = sum(blocks[h] ** 2 * (1 - sampled[h] / blocks[h]) * np.var(slope_b[chosen_b == h], ddof=1) / sampled[h]
                   for h in (0, 2, 3))
    part = metrics.part_score(counts_bKK, chosen_b, blocks, present)
    assert part.miou == miou(weight_b)
    assert part.se == pytest.approx(np.sqrt(variance), rel=1e-6)


def test_strata_and_their_sizes_count():
    """Where one stratum is sampled more densely than another, the bare counts are biased, and the estimate is not."""
    counts_bKK, stratum_b = population(2)
    present = np.ones(4, bool)
    truth = metrics.mean_iou(counts_bKK.sum(0), present)
    population_h = {h: int((stratum_b == h).sum()) for h in (0, 2, 3)}
    generator, errors, bare = np.random.default_rng(3), [], []
    for _ in range(200):
        chosen = draw(generator, stratum_b, {0: 0.1, 2: 0.3, 3: 0.8})
        part = metrics.part_score(counts_bKK[chosen], stratum_b[chosen], population_h, present)
        errors.append(part.miou - truth)
        bare.append(metrics.mean_iou(counts_bKK[chosen].sum(0), present) - truth)
    assert abs(np.mean(errors)) < 0.25 * abs(np.mean(bare))


def test_a_sample_that_is_the_split_is_exact():
    counts_bKK, stratum_b = population(4, blocks=37)
    present = np.array([True, True, True, False])
    part = metrics.part_score(counts_bKK, stratum_b, np.bincount(stratum_b), present)
    assert part.se == 0
    assert part.miou == metrics.mean_iou(counts_bKK.sum(0), present)
    np.testing.assert_array_equal(part.iou_K, metrics.iou(counts_bKK.sum(0)))


def test_a_lone_block_of_a_stratum_takes_the_spread_of_all():
    counts_bKK, _ = population(5, blocks=6)
    present = np.ones(4, bool)
    alone = metrics.part_score(counts_bKK, np.array([0, 0, 0, 0, 0, 1]), {0: 5, 1: 7}, present)
    assert np.isfinite(alone.se)
    assert alone.se > 0
    assert np.isnan(metrics.part_score(counts_bKK[:1], np.array([0]), {0: 9}, present).se)


@pytest.mark.parametrize(("stratum_b", "population_h", "names"), [
    ([0, 0], {0: 5, 1: 3}, "stratum 1 has 0 blocks"), ([0, 1], {0: 5}, "stratum 1 has 1 blocks in the sample and 0"),
    ([0, 0], {0: 1}, "stratum 0 has 2 blocks in the sample and 1")])
def test_a_sample_that_cannot_stand_for_the_split_is_refused(stratum_b, population_h, names):
    with pytest.raises(ValueError, match=names):
        metrics.part_score(population(6, blocks=2)[0], np.array(stratum_b), population_h, np.ones(4, bool))
