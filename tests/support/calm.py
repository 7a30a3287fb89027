"""A run that is the same one however it is spread over workers and cut short, and what its sameness is judged by."""

import numpy as np

from swath.config import ClusterConfig, Config, DataConfig, LossConfig, ModelConfig, PatchesConfig, TrainConfig
from swath.experiments import experiment

CURVES = ("train/loss", "train/miou", "val/loss", "val_part/miou")


def calm(store_uri: str, **cluster: object) -> Config:
    """A run whose steps are small: training multiplies what rounding differs by."""
    return Config(
        data=DataConfig(store=store_uri),
        patches=PatchesConfig(size=64),
        model=ModelConfig(arch="unet", encoder="tu-mobilenetv3_small_050", norm="group"),
        loss=LossConfig(cross_entropy=1, dice=1),
        train=TrainConfig(megapixels=1.4, batch=8, report_every=0.4, optimiser="sgd", lr=1e-3, precision="fp32",
                          save_minutes=0.2 / 60),
        cluster=ClusterConfig(device="cpu", cpus=1, readers=1, **cluster),  # type: ignore[arg-type]
    )


def curves(outcome: experiment.Outcome) -> list[list[float]]:
    return [[metrics[name] for metrics in outcome.run.history] for name in CURVES]


def assert_alike(actual: list[list[float]], desired: list[list[float]]) -> None:
    """Curves of the same run on other numbers of workers: rounding moves a loss a little, and some argmaxes."""
    for name, values, wanted in zip(CURVES, actual, desired, strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-3 if name.endswith("loss") else 0.02, err_msg=name)
