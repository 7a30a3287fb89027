"""Tiny configurations: runs of seconds on a processor core."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from swath.config import (
    AugmentConfig,
    ClusterConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    PatchesConfig,
    ScoreConfig,
    TrainConfig,
)
from swath.models import network

TINY = Config(
    patches=PatchesConfig(size=64),
    augment=AugmentConfig(pipeline="aerial"),
    model=ModelConfig(arch="linknet", encoder="tu-mobilenetv3_small_050", norm="group"),
    loss=LossConfig(cross_entropy=1, dice=1),
    train=TrainConfig(megapixels=0.26, batch=8, micro_batch=8, report_every=0.09, keep=5, ema=0.05),
    score=ScoreConfig(overlap=0),
    cluster=ClusterConfig(readers=0),  # a process for each of these runs would take longer than the run
)
"""Mixes everything that a run may have, in three reports."""
CONCENTRIC = replace(TINY, patches=PatchesConfig(size=64, scales=(1.0, 3.0), combine="concentric"),
                     model=replace(TINY.model, arch="unet"),
                     train=replace(TINY.train, megapixels=0.13, batch=4, micro_batch=4, report_every=0.06))
"""The same of concentric patches."""
TRAIN_ARGUMENTS = ("--model.arch", "linknet", "--patches.size", 64, "--train.megapixels", 0.3,
                   "--train.report-every", 0.15, "--cluster.device", "cpu")
"""A run of `train synthetic`."""
SEARCH_ARGUMENTS = ("synthetic", "--patches.size", 64, "--train.epochs", 1.5, "--train.megapixels", 0,
                    "--train.report-every", 0.1, "--cluster.device", "cpu", "--search.megapixels", 0.2,
                    "--search.space", "patches.scales=1|1,2", "loss.dice=0..1")
"""A search, of a recipe and all its options."""


def calm(store_uri: str, **cluster: object) -> Config:
    """A run that stays the same however it is spread over workers: training multiplies what rounding differs by, and
    its steps are small."""
    return Config(
        data=DataConfig(store=store_uri),
        patches=PatchesConfig(size=64),
        model=ModelConfig(arch="unet", encoder="tu-mobilenetv3_small_050", norm="group"),
        loss=LossConfig(cross_entropy=1, dice=1),
        train=TrainConfig(megapixels=1.4, batch=8, report_every=0.4, optimiser="sgd", lr=1e-3, precision="fp32",
                          save_minutes=0.2 / 60),
        cluster=ClusterConfig(device="cpu", cpus=1, readers=1, **cluster),  # type: ignore[arg-type]
    )


def two_workers(store_uri: str) -> Config:
    return Config(
        data=DataConfig(store=store_uri),
        patches=PatchesConfig(size=64),
        augment=AugmentConfig(pipeline="aerial"),
        model=ModelConfig(arch="unet", encoder="tu-mobilenetv3_small_050", norm="group"),
        loss=LossConfig(cross_entropy=1, dice=1),
        train=TrainConfig(megapixels=0.7, batch=8, report_every=0.1, keep=2),
        cluster=ClusterConfig(workers=2, cpus=1, device="cpu", restarts=1, readers=1),
    )


def with_weights(model: ModelConfig, folder: Path) -> ModelConfig:
    """The model with its encoder's weights from a file that is made here."""
    net = network.build(model, network.DataTraits(bands=3, classes=2, mean_B=np.zeros(3), std_B=np.ones(3)))
    torch.save(net.encoder.state_dict(), folder / "encoder.pt")
    return replace(model, weights=str(folder / "encoder.pt"))
