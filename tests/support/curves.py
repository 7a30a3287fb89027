"""Curves of runs, and whether those of two runs are alike."""

import numpy as np

from swath.experiments import experiment

CURVES = ("train/loss", "train/miou", "val/loss", "val_part/miou")


def curves(outcome: experiment.Outcome) -> list[list[float]]:
    return [[metrics[name] for metrics in outcome.run.history] for name in CURVES]


def assert_alike(actual: list[list[float]], desired: list[list[float]]) -> None:
    """Curves of the same run on other numbers of workers: rounding moves a loss a little, and some argmaxes."""
    for name, values, wanted in zip(CURVES, actual, desired, strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-3 if name.endswith("loss") else 0.02, err_msg=name)
