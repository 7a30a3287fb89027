"""Schedules: the learning rate of a step, and how much of the moving average it keeps. Functions of the step alone."""

import math

from swath.config import TrainConfig

_POWER = 0.9
"""Of the schedule `poly`: what DeepLab has (Chen et al. 2017, arXiv:1606.00915)."""
_START, _END = 1 / 25, 1 / 250_000
"""Of the schedule `one_cycle`: shares of the peak at the first and the last step, as PyTorch's OneCycleLR has them."""


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The learning rate of a step, from 0 to `steps` - 1.

    A linear warm-up, then: constant; half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983); a polynomial; or
    stable, then a linear decay (Hu et al. 2024, arXiv:2404.06395), all of them to 0 after the last step. `one_cycle`
    (Smith and Topin 2018, arXiv:1708.07120; momentum stays) rises and falls by cosines, as PyTorch's does.
    """
    if config.schedule == "one_cycle":
        return config.lr * _one_cycle(step, steps, config.warmup)
    rise = min(1.0, (step + 1) / (config.warmup * steps)) if config.warmup else 1.0
    after = max(0.0, (step / steps - config.warmup) / (1 - config.warmup))
    match config.schedule:
        case "constant":
            fall = 1.0
        case "cosine":
            fall = _cosine(1.0, 0.0, after)
        case "poly":
            fall = (1 - after) ** _POWER
        case "stable_decay":
            fall = min(1.0, (1 - step / steps) / config.decay)
    return config.lr * rise * fall


def _one_cycle(step: int, steps: int, warmup: float) -> float:
    top, last = warmup * steps - 1, steps - 1
    if step <= top:
        return _cosine(_START, 1.0, step / top if top else 1.0)
    return _cosine(1.0, _END, (step - max(top, 0.0)) / (last - max(top, 0.0)) if last > 0 else 0.0)


def _cosine(first: float, last: float, share: float) -> float:
    """Between two values, along half a cosine."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))


def ema_decay(config: TrainConfig, step: int, step_megapixels: float) -> float:
    """The share of the moving average that a step keeps: a half after every `train.ema` megapixels, whatever the batch.

    Less in the first steps, (1 + n) / (10 + n), so that the random weights of the beginning are soon forgotten (as
    TensorFlow's ExponentialMovingAverage does with num_updates).
    """
    return min(float(0.5 ** (step_megapixels / config.ema)), (1 + step) / (10 + step))
