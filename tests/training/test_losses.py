"""Losses against themselves however a batch is cut, at their limits, and in use."""

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from swath.config import LOSSES, LossConfig
from swath.errors import ConfigError
from swath.training.losses import Loss, class_weights

K, IGNORE = 4, 255
NONE = {"cross_entropy": 0.0}
EVERY = {"cross_entropy": 0.7, "focal": 0.4, "dice": 1.3, "jaccard": 0.9, "tversky": 0.8, "lovasz": 1.1, "gamma": 1.5}
ALL = LossConfig(**EVERY)
TARGETS = pytest.mark.parametrize("config", [ALL, LossConfig(**EVERY, target="one_vs_rest")],
                                  ids=["softmax", "one_vs_rest"])
EACH = pytest.mark.parametrize("config", [
    LossConfig(**(NONE | {name: 1.0, "gamma": 1.5, "target": target}))
    for target in get_args(LossConfig.__annotations__["target"]) for name in LOSSES],
    ids=lambda config: f"{config.target}-{next(iter(config.terms))}")
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


def value_and_gradient(config, logits, labels, parts):
    """The loss of a batch that is cut into parts, and its gradient, from the parts' shares."""
    loss = Loss(config, K, IGNORE, WEIGHTS)
    logits = logits.clone().requires_grad_()
    totals = sum(loss.totals(labels[part]) for part in parts)
    torch.testing.assert_close(totals, loss.totals(labels), rtol=1e-14, atol=0)
    shares = [loss(logits[part], labels[part], totals) for part in parts]
    for share in shares:
        share.backward()
    return sum(shares).detach(), logits.grad


@EACH
def test_a_batch_cut_in_any_way_has_the_same_loss_and_gradient(config):
    logits, labels = batch(11, samples=16, size=6, ignored=[0.0, 0.1, 0.95, 1.0] * 4)
    value, gradient = value_and_gradient(config, logits, labels, [slice(None)])
    for count in (16, 4):
        parts = torch.arange(16).chunk(count)
        torch.testing.assert_close(value_and_gradient(config, logits, labels, parts), (value, gradient), rtol=1e-10,
                                   atol=1e-16)


@TARGETS
@given(seed=st.integers(0, 10_000), data=st.data(),
       ignored=st.lists(st.sampled_from([0.0, 0.3, 0.95, 1.0]), min_size=1, max_size=7))
@settings(deadline=None, max_examples=40)
def test_parts_sum_to_the_whole_however_it_is_cut(config, seed, ignored, data):
    logits, labels = batch(seed, samples=len(ignored), size=5, ignored=ignored)
    part_of = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(ignored), max_size=len(ignored))))
    parts = [torch.nonzero(part_of == part)[:, 0] for part in range(4)]  # in any order, some of them empty
    torch.testing.assert_close(value_and_gradient(config, logits, labels, parts),
                               value_and_gradient(config, logits, labels, [slice(None)]), rtol=1e-11, atol=1e-14)


@TARGETS
def test_nothing_labelled_is_zero_with_a_graph(config):
    logits, labels = batch(3, ignored=torch.ones(5))
    logits.requires_grad_()
    loss = Loss(config, K, IGNORE, WEIGHTS)
    totals = loss.totals(labels)
    assert totals.dtype == torch.float64
    assert totals.tolist() == [0, 0]
    value = loss(logits, labels, totals)
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


@TARGETS
def test_the_ignore_index_may_be_that_of_a_class(config):
    logits, labels = batch(6)
    labels[labels == 3] = IGNORE
    inside = Loss(config, K, 3, WEIGHTS)
    relabelled = torch.where(labels == IGNORE, 3, labels)
    torch.testing.assert_close(inside(logits, relabelled, inside.totals(relabelled)),
                               whole(config, logits, labels, WEIGHTS))


def test_totals_count_weight_and_samples():
    labels = torch.tensor([[[0, 1]], [[IGNORE, 3]], [[IGNORE, IGNORE]]], dtype=torch.uint8)
    assert Loss(ALL, K, IGNORE).totals(labels).tolist() == [3, 2]
    assert Loss(ALL, K, IGNORE, WEIGHTS).totals(labels).tolist() == [2.75, 2]
    with pytest.raises(ValueError, match="label 7"):
        Loss(ALL, K, IGNORE).totals(torch.tensor([[[7]]], dtype=torch.uint8))


@TARGETS
def test_half_precision_logits_are_summed_in_float32(config):
    logits, labels = batch(4, samples=2, size=200, ignored=[0.1, 0.5])
    coarse = logits.to(torch.bfloat16).requires_grad_()
    value = whole(config, coarse, labels, WEIGHTS)
    value.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), whole(config, coarse.double(), labels, WEIGHTS), rtol=1e-5, atol=0)
    assert torch.isfinite(coarse.grad).all()


@EACH
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sure", [20.0, 200.0])
def test_gradients_are_finite_for_certain_predictions_and_ignored_pixels(config, gamma, dtype, sure):
    labels = torch.tensor([[[0, 1, IGNORE]]], dtype=torch.uint8)
    logits = torch.zeros(1, K, 1, 3, dtype=dtype)
    logits[0, 0] = sure  # right for the first pixel, wrong for the second
    logits.requires_grad_()
    value = whole(replace(config, gamma=gamma), logits, labels)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    if config.cross_entropy or config.focal:  # a region's error has no slope where it is certain
        assert logits.grad[0, :, 0, 1].abs().sum() > 0
    assert (logits.grad[0, :, 0, 2] == 0).all()


@TARGETS
def test_gradients_agree_with_finite_differences(config):
    logits, labels = batch(5, samples=2, size=3, ignored=[0.2, 0.5])
    loss = Loss(config, K, IGNORE, WEIGHTS)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, loss.totals(labels)), logits.requires_grad_())


@EACH
def test_a_loss_goes_from_0_for_what_is_right_to_1_or_more_for_what_is_wrong(config):
    _, labels = batch(12, samples=6, ignored=[0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    truth = functional.one_hot(torch.where(labels == IGNORE, 0, labels).long(), K).movedim(-1, 1).float()
    for sure in (1.0, 10.0, 1000.0):
        right, wrong = (whole(config, sign * sure * (2 * truth - 1), labels).item() for sign in (1, -1))
        assert 0 <= right < wrong
        if not (config.cross_entropy or config.focal):
            assert wrong <= 1 + 1e-6
    assert right < 1e-6
    assert wrong > 1 - 1e-6


@pytest.mark.parametrize("labels", [[[0, 0]], [[0, IGNORE]]])
@EACH
def test_a_store_of_one_class_trains(config, labels):
    labels = torch.tensor([labels], dtype=torch.uint8)
    logits = torch.tensor([[[[0.5, -3.0]]]]).requires_grad_()
    loss = Loss(config, 1, IGNORE)
    value = loss(logits, labels, loss.totals(labels))
    value.backward()
    assert torch.isfinite(logits.grad).all()
    if config.target == "softmax":
        assert value.item() == 0  # there is nothing else that it could be
    else:
        assert value.item() > 0
        assert logits.grad[0, 0, 0, 0] < 0


@EACH
def test_it_trains_every_channel_though_no_patch_has_all_classes(config):
    labels = torch.tensor([[[0, 1], [1, 0]], [[2, 3], [2, IGNORE]], [[1, 3], [3, 1]]], dtype=torch.uint8)
    pixels = functional.one_hot(torch.where(labels == IGNORE, 0, labels).long(), K).movedim(-1, 1).float()
    torch.manual_seed(0)
    net = torch.nn.Conv2d(K, K, 1)
    torch.nn.init.constant_(net.bias, 1.0)  # every channel begins by seeing its class everywhere
    optimiser = torch.optim.Adam(net.parameters(), lr=0.2)
    for _ in range(80):
        optimiser.zero_grad()
        whole(config, net(pixels), labels).backward()
        optimiser.step()
    logits = net(torch.eye(K)[..., None, None])[..., 0, 0]  # a pixel of each class
    assert logits.argmax(1).tolist() == list(range(K))
    if config.target == "one_vs_rest":  # told apart also from classes that it shares no patch with
        assert torch.equal(logits > 0, torch.eye(K).bool())


@pytest.mark.parametrize("field", ["lovasz", "tversky", "alpha", "beta", "gamma"])
def test_numbers_that_cannot_be_are_refused(field):
    for value in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match=field):
            LossConfig(**{field: value})
    assert LossConfig(**NONE, lovasz=0.5).terms == {"lovasz": 0.5}


@pytest.mark.parametrize("scheme", ["none", "inverse", "sqrt", "log"])
def test_class_weights_have_a_mean_of_one(scheme):
    counts = np.array([1000, 10, 0, 90])
    weights = class_weights(counts, scheme)
    assert weights.dtype == np.float64
    assert np.isfinite(weights).all()
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    ratio = {"none": 1, "inverse": 100, "sqrt": 10,
             "log": math.log(1.02 + 1000 / 1100) / math.log(1.02 + 10 / 1100)}[scheme]
    assert weights[1] / weights[0] == pytest.approx(ratio)
    assert weights[2] == (1 if scheme == "none" else 0)


def test_inverse_class_weights_are_those_of_median_frequency():
    counts = np.array([1000, 10, 90])
    median = np.median(counts) / counts
    np.testing.assert_allclose(class_weights(counts, "inverse"), median / (median * counts).sum() * counts.sum())


def test_class_weights_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="labelled pixels"):
        class_weights(np.zeros(3), "inverse")
    for wrong in (np.ones(3), np.array([1, np.inf, 1, 1]), np.array([1, -1, 1, 1])):
        with pytest.raises(ValueError, match="4 finite numbers"):
            Loss(ALL, K, IGNORE, wrong)
