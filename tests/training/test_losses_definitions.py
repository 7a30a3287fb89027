"""Losses against plain PyTorch and smp where these agree, and against their definitions."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional

from support.losses import EACH, IGNORE, NONE, WEIGHTS, K, batch, whole
from swath.config import LossConfig


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


@pytest.mark.parametrize(("name", "oracle"), [
    ("dice", smp.losses.DiceLoss), ("jaccard", smp.losses.JaccardLoss),
    ("tversky", partial(smp.losses.TverskyLoss, alpha=0.3, beta=0.7))])
def test_region_losses_are_smps_where_nothing_is_ignored(name, oracle):
    """For one sample in which each class occurs: smp sums over the batch, and counts a class without labels as 0."""
    logits, labels = batch(2, ignored=torch.zeros(5))
    assert all(len(one.unique()) == K for one in labels)
    each = [oracle("multiclass", smooth=0.0)(logits[i:i + 1], labels[i:i + 1].long()) for i in range(5)]
    torch.testing.assert_close(whole(LossConfig(**NONE, **{name: 1.0}), logits, labels), torch.stack(each).mean())
    each = [oracle("multilabel", smooth=0.0)(logits[i:i + 1], functional.one_hot(labels[i:i + 1].long(), K).permute(
        0, 3, 1, 2)) for i in range(5)]
    torch.testing.assert_close(whole(LossConfig(**NONE, **{name: 1.0}, target="one_vs_rest"), logits, labels),
                               torch.stack(each).mean())


def test_lovasz_is_smps_for_samples_with_labels():
    """Ignored pixels and missing classes and all; of a sample without labels smp's mean would count a 0."""
    logits, labels = batch(2, ignored=[0.0, 0.3, 0.6, 0.9, 0.99])
    labels[1][labels[1] == 2] = 0
    expected = smp.losses.LovaszLoss("multiclass", per_image=True, ignore_index=IGNORE)(logits.float(), labels)
    torch.testing.assert_close(whole(LossConfig(**NONE, lovasz=1), logits.float(), labels), expected)


def test_one_vs_rest_is_torchs_cross_entropy_and_smps_focal_loss():
    logits, labels = batch(8)
    valid = labels != IGNORE
    is_class = functional.one_hot(labels[valid].long(), K).double()
    expected = functional.binary_cross_entropy_with_logits(logits.movedim(1, -1)[valid], is_class)
    torch.testing.assert_close(whole(LossConfig(target="one_vs_rest"), logits, labels), expected)
    expected = smp.losses.FocalLoss("multiclass", gamma=2.0, ignore_index=IGNORE)(logits, labels)
    torch.testing.assert_close(whole(LossConfig(**NONE, focal=1, target="one_vs_rest"), logits, labels), expected)


def mean_error(config, logits, labels, weights):
    """A loss by its definition, a pixel, a class and a threshold at a time."""
    (name, _), = config.terms.items()
    soft = config.target == "softmax"
    p_NKP = (torch.softmax(logits, 1) if soft else torch.sigmoid(logits)).flatten(2).numpy()
    labels_NP = labels.flatten(1).numpy()
    valid_NP = labels_NP != IGNORE
    if name in ("cross_entropy", "focal"):
        total = 0.0
        for n, i in np.argwhere(valid_NP):
            label = labels_NP[n, i]
            right = [p_NKP[n, label, i]] if soft else [p if k == label else 1 - p for k, p in enumerate(p_NKP[n, :, i])]
            doubt = [(1 - p) ** (config.gamma if name == "focal" else 0) for p in right]
            total += weights[label] * np.mean([-d * math.log(p) for d, p in zip(doubt, right, strict=True)])
        return total / weights[labels_NP[valid_NP]].sum()
    samples = []
    for p_KP, labels_P, valid_P in zip(p_NKP, labels_NP, valid_NP, strict=True):
        values = []
        for k in range(K):
            region, p, charges = labels_P[valid_P] == k, p_KP[k][valid_P], (config.alpha, config.beta)
            if not region.any():
                if soft:
                    continue
                region, p, charges = ~region, 1 - p, charges[::-1]
            charges = {"dice": (0.5, 0.5), "jaccard": (1, 1)}.get(name, charges)
            held, claimed, missed = p[region].sum(), p[~region].sum(), (1 - p)[region].sum()
            if name == "lovasz":  # the Jaccard loss of the errors above each threshold, over all thresholds
                errors = np.abs(region - p)
                steps = np.unique([0.0, *errors])
                values.append(sum((high - low) * (errors > low).sum() / (region | (errors > low)).sum()
                                  for low, high in pairwise(steps)))
            else:
                values.append(1 - held / (held + charges[0] * claimed + charges[1] * missed))
        samples.append(np.mean(values))
    return np.mean(samples)


@EACH
def test_each_loss_is_its_definition(config):
    logits, labels = batch(9, samples=4, size=6, ignored=[0.0, 0.3, 0.6, 0.9])
    labels[0][labels[0] == 1] = 0  # so that a sample lacks a class
    assert whole(config, logits, labels, WEIGHTS).item() == pytest.approx(mean_error(config, logits, labels, WEIGHTS),
                                                                         rel=1e-12)


@pytest.mark.parametrize(("name", "expected"), [
    # class 0: overlap 0.5, predicted 0.5, labelled 1; class 1: overlap 1, predicted 1.5, labelled 1
    ("dice", 1 - (2 * 0.5 / 1.5 + 2 * 1 / 2.5) / 2), ("jaccard", 1 - (0.5 / 1 + 1 / 1.5) / 2)])
def test_region_losses_by_hand(name, expected):
    """Two labelled pixels, two ignored; classes 2 and 3 have no label and are left out of the mean."""
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    logits = p.double().clamp_min(1e-30).log().T.reshape(1, K, 2, 2)
    labels = torch.tensor([[[0, 1], [IGNORE, IGNORE]]], dtype=torch.uint8)
    assert whole(LossConfig(**NONE, **{name: 1.0}), logits, labels).item() == pytest.approx(expected)
