"""Losses against plain PyTorch and smp where these agree, and against themselves however a batch is cut."""

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from swath.config import LossConfig
from swath.losses import Loss, class_weights

K, IGNORE = 4, 255
NONE = {"cross_entropy": 0.0}
ALL = LossConfig(cross_entropy=0.7, focal=0.4, dice=1.3, jaccard=0.9, gamma=1.5)
WEIGHTS = np.array([0.5, 2.0, 1.0, 0.25])


def batch(seed, samples=5, size=7, ignored=None):
    """Random logits, float64, and labels of which each sample's given share is ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(samples, K, size, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, K, (samples, size, size), generator=generator, dtype=torch.uint8)
    share = torch.as_tensor(ignored if ignored is not None else torch.rand(samples, generator=generator))
    drop = torch.rand(labels.shape, generator=generator) < share[:, None, None]
    return logits, torch.where(drop, IGNORE, labels).to(torch.uint8)


def whole(config, logits, labels, weights=None):
    loss = Loss(config, K, IGNORE, weights)
    return loss(logits, labels, loss.totals(labels))


def test_cross_entropy_is_torchs_mean():
    logits, labels = batch(0)
    for weights in (None, WEIGHTS):
        expected = functional.cross_entropy(logits, labels.long(), ignore_index=IGNORE,
                                            weight=None if weights is None else torch.tensor(weights))
        torch.testing.assert_close(whole(LossConfig(), logits, labels, weights), expected)


def test_focal_is_its_formula_and_cross_entropy_at_gamma_zero():
    logits, labels = batch(1)
    valid = labels != IGNORE
    log_p = torch.log_softmax(logits, 1).gather(1, torch.where(valid, labels, 0).long()[:, None])[:, 0][valid]
    weight = torch.tensor(WEIGHTS)[labels[valid].long()]
    expected = -(weight * (1 - log_p.exp()) ** 2 * log_p).sum() / weight.sum()
    torch.testing.assert_close(whole(LossConfig(**NONE, focal=1), logits, labels, WEIGHTS), expected)
    torch.testing.assert_close(whole(LossConfig(**NONE, focal=1, gamma=0), logits, labels),
                               whole(LossConfig(), logits, labels))


@pytest.mark.parametrize(("name", "oracle"), [("dice", smp.losses.DiceLoss), ("jaccard", smp.losses.JaccardLoss)])
def test_region_losses_are_smps_where_nothing_is_ignored(name, oracle):
    logits, labels = batch(2, ignored=torch.zeros(5))
    assert all(len(one.unique()) == K for one in labels)  # smp counts a class without labels as learnt
    each = [oracle("multiclass", smooth=0.0)(logits[i:i + 1], labels[i:i + 1].long()) for i in range(5)]
    torch.testing.assert_close(whole(LossConfig(**NONE, **{name: 1.0}), logits, labels), torch.stack(each).mean())


@pytest.mark.parametrize(("name", "expected"), [
    # class 0: overlap 0.5, predicted 0.5, labelled 1; class 1: overlap 1, predicted 1.5, labelled 1
    ("dice", 1 - (2 * 0.5 / 1.5 + 2 * 1 / 2.5) / 2), ("jaccard", 1 - (0.5 / 1 + 1 / 1.5) / 2)])
def test_region_losses_by_hand(name, expected):
    """Two labelled pixels, two ignored; classes 2 and 3 have no label and are left out of the mean."""
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    logits = p.double().clamp_min(1e-30).log().T.reshape(1, K, 2, 2)
    labels = torch.tensor([[[0, 1], [IGNORE, IGNORE]]], dtype=torch.uint8)
    assert whole(LossConfig(**NONE, **{name: 1.0}), logits, labels).item() == pytest.approx(expected)


@given(st.integers(0, 10_000), st.lists(st.sampled_from([0.0, 0.3, 0.95, 1.0]), min_size=1, max_size=7), st.data())
@settings(deadline=None)
def test_parts_sum_to_the_whole_however_it_is_cut(seed, ignored, data):
    logits, labels = batch(seed, samples=len(ignored), size=5, ignored=ignored)
    part_of = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(ignored), max_size=len(ignored))))
    parts = [torch.nonzero(part_of == part)[:, 0] for part in range(4)]  # in any order, some of them empty
    loss = Loss(ALL, K, IGNORE, WEIGHTS)
    expected = logits.clone().requires_grad_()
    value = loss(expected, labels, loss.totals(labels))
    value.backward()
    totals = sum(loss.totals(labels[part]) for part in parts)
    torch.testing.assert_close(totals, loss.totals(labels), rtol=1e-14, atol=0)
    cut = logits.clone().requires_grad_()
    shares = [loss(cut[part], labels[part], totals) for part in parts]
    for share in shares:
        share.backward()
    torch.testing.assert_close(sum(shares), value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(cut.grad, expected.grad, rtol=1e-11, atol=1e-15)


def test_nothing_labelled_is_zero_with_a_graph():
    logits, labels = batch(3, ignored=torch.ones(5))
    logits.requires_grad_()
    loss = Loss(ALL, K, IGNORE, WEIGHTS)
    totals = loss.totals(labels)
    assert totals.dtype == torch.float64
    assert totals.tolist() == [0, 0]
    value = loss(logits, labels, totals)
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


def test_the_ignore_index_may_be_that_of_a_class():
    logits, labels = batch(6)
    labels[labels == 3] = IGNORE
    inside = Loss(ALL, K, 3, WEIGHTS)
    relabelled = torch.where(labels == IGNORE, 3, labels)
    torch.testing.assert_close(inside(logits, relabelled, inside.totals(relabelled)),
                               whole(ALL, logits, labels, WEIGHTS))


def test_totals_count_weight_and_samples():
    labels = torch.tensor([[[0, 1]], [[IGNORE, 3]], [[IGNORE, IGNORE]]], dtype=torch.uint8)
    assert Loss(ALL, K, IGNORE).totals(labels).tolist() == [3, 2]
    assert Loss(ALL, K, IGNORE, WEIGHTS).totals(labels).tolist() == [2.75, 2]
    with pytest.raises(ValueError, match="label 7"):
        Loss(ALL, K, IGNORE).totals(torch.tensor([[[7]]], dtype=torch.uint8))


def test_half_precision_logits_are_summed_in_float32():
    logits, labels = batch(4, samples=2, size=200, ignored=[0.1, 0.5])
    coarse = logits.to(torch.bfloat16)
    value = whole(ALL, coarse, labels, WEIGHTS)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), whole(ALL, coarse.double(), labels, WEIGHTS), rtol=1e-5, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_gradients_are_finite_for_certain_predictions_and_ignored_pixels(gamma):
    labels = torch.tensor([[[0, 1, IGNORE]]], dtype=torch.uint8)
    logits = torch.zeros(1, K, 1, 3)
    logits[0, 0] = 200.0  # certain: right for the first pixel, wrong for the second
    logits.requires_grad_()
    whole(LossConfig(focal=1, dice=1, jaccard=1, gamma=gamma), logits, labels).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, :, 0, 1].abs().sum() > 0
    assert (logits.grad[0, :, 0, 2] == 0).all()


def test_gradients_agree_with_finite_differences():
    logits, labels = batch(5, samples=2, size=3, ignored=[0.2, 0.5])
    loss = Loss(ALL, K, IGNORE, WEIGHTS)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, loss.totals(labels)), logits.requires_grad_())


@pytest.mark.parametrize("scheme", ["none", "inverse", "sqrt"])
def test_class_weights_have_a_mean_of_one(scheme):
    counts = np.array([1000, 10, 0, 90])
    weights = class_weights(counts, scheme)
    assert weights.dtype == np.float64
    assert np.isfinite(weights).all()
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    ratio = {"none": 1, "inverse": 100, "sqrt": 10}[scheme]
    assert weights[1] / weights[0] == pytest.approx(ratio)
    assert weights[2] == (1 if scheme == "none" else 0)


def test_class_weights_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="labelled pixels"):
        class_weights(np.zeros(3), "inverse")
    for wrong in (np.ones(3), np.array([1, np.inf, 1, 1]), np.array([1, -1, 1, 1])):
        with pytest.raises(ValueError, match="4 finite numbers"):
            Loss(ALL, K, IGNORE, wrong)
