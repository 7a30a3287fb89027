"""The named experiments. Each is a function that returns a complete configuration; the command line overrides it.

    python jobs/train.py dubai --data.store runs/dubai.zarr --patches.size 512
"""

from patchstore.testing import CLASSES as SYNTHETIC_CLASSES
from swath.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    PatchesConfig,
    ScoreConfig,
    SearchConfig,
    SplitConfig,
    TrackConfig,
    TrainConfig,
)


def synthetic() -> Config:
    """Generated orthophotos of fields, woods, water, roads and buildings (patchstore.testing): minutes on two cores."""
    return Config(
        data=DataConfig(classes=SYNTHETIC_CLASSES, mask="index", group=r"^(g\d+)_"),
        split=SplitConfig(val_fraction=0.15, test_fraction=0.15),
        patches=PatchesConfig(size=128),
        model=ModelConfig(arch="unet", encoder="tu-mobilenetv3_small_050"),
        loss=LossConfig(cross_entropy=1.0, dice=1.0, class_weights="sqrt"),
        train=TrainConfig(megapixels=32, batch=16, lr=3e-3, report_every=4),
        search=SearchConfig(trials=4, megapixels=12, grace=4, space=(
            "model.arch=unet|fpn", "model.encoder=tu-mobilenetv3_small_050|tu-mobilenetv3_small_100", "loss.dice=0..2",
            "patches.size=64|128|256", "patches.scales=1|2|1,2")),
        track=TrackConfig(experiment="synthetic"),
    )


def dubai() -> Config:
    """MBRSC's aerial images of Dubai: 72 parts of 8 tiles, 6 classes, split by tile; minutes on two cores.

    A colour that no class has (#000000) is ignored and counted. `unlabeled` is a class of its own, as its users have
    it, and a second mean leaves it out. Patches see two image pixels in one, so that a few passes fit two cores.
    """
    return Config(
        data=DataConfig(
            adapter="tiles", mask="colour", ignored=("#000000",),
            classes=("building=#3C1098", "land=#8429F6", "road=#6EC1E4", "vegetation=#FEDD3A", "water=#E2A929",
                     "unlabeled=#9B9B9B")),
        split=SplitConfig(val=("tile_2", "tile_3"), test=("tile_1", "tile_6")),
        patches=PatchesConfig(size=256, scales=(2.0,), stride=128),
        augment=AugmentConfig(brightness=0.2, contrast=0.2),
        model=ModelConfig(arch="unet", encoder="resnet18"),
        loss=LossConfig(cross_entropy=1.0, dice=0.5),
        train=TrainConfig(megapixels=80, batch=8, lr=1e-3, report_every=8),
        search=SearchConfig(trials=8, megapixels=24, grace=8, space=(
            "model.arch=unet|fpn", "model.encoder=resnet18|tu-mobilenetv3_small_100", "loss.dice=0..1",
            "loss.focal=0..1", "patches.size=128|256", "patches.scales=1|2|4|1,2", "train.lr=5e-4..3e-3:log")),
        score=ScoreConfig(without=("unlabeled",)),
        track=TrackConfig(experiment="dubai"),
    )
