"""Losses to test, random batches for them, and their value over a whole batch."""

from typing import get_args

import numpy as np
import pytest
import torch

from swath.config import LOSSES, LossConfig
from swath.training.losses import Loss

K, IGNORE = 4, 255
NONE = {"cross_entropy": 0.0}
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
