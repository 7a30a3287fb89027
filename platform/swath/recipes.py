"""The named experiments. Each is a function that returns a complete configuration; the command line overrides it.

    swath train dubai_unet --data.store runs/dubai.zarr --patches.size 512

Those that people's own systems ran by hand have the figures that these state; where ours differ, the docstring says
why.
"""

from dataclasses import replace

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

__all__ = [
    "codalab_unet",
    "deepglobe",
    "drone_aspp_unet",
    "drone_deeplabv3plus_efficientnet_b5",
    "drone_deeplabv3plus_resnet34",
    "dubai_unet",
    "landcover_ai_fpn_resnet18",
    "landcover_ai_unet_resnet18",
    "landcover_ai_unet_resnet50",
    "obx",
    "synthetic",
]


def synthetic() -> Config:
    """Generated orthophotos of fields, woods, water, roads and buildings (patchstore.testing): minutes on two cores."""
    return Config(
        data=DataConfig(classes=SYNTHETIC_CLASSES, mask="index", group=r"^(g\d+)_"),
        split=SplitConfig(val_fraction=0.15, test_fraction=0.15),
        patches=PatchesConfig(size=128),
        augment=AugmentConfig(pipeline="flips"),
        model=ModelConfig(arch="unet", encoder="tu-mobilenetv3_small_050"),
        loss=LossConfig(cross_entropy=1.0, dice=1.0, class_weights="sqrt"),
        train=TrainConfig(megapixels=24, batch=16, lr=3e-3, report_every=4),
        search=SearchConfig(trials=4, megapixels=8, grace=4, space=(
            "model.arch=unet|fpn", "model.encoder=tu-mobilenetv3_small_050|tu-mobilenetv3_small_100", "loss.dice=0..2",
            "patches.size=64|128|256", "patches.scales=1|2|1,2")),
        track=TrackConfig(experiment="synthetic"),
    )


def dubai_unet() -> Config:
    """MBRSC's aerial images of Dubai: 72 parts of 8 tiles, 6 classes, split by tile; a U-Net, minutes on two cores.

    A colour that no class has (#000000) is ignored and counted. `unlabeled` is a class of its own, as its users have
    it, and a second mean leaves it out. They cut patches of 256 px in full detail without overlap (--patches.scales 1
    --patches.stride 256); here a patch sees two image pixels in one and overlaps its neighbours by half, so that a few
    passes fit two cores. A random split of patches or parts, as is common, leaks, since parts of a tile adjoin. Their
    U-Net is coded by hand, this one has an encoder; it begins from random weights, from ImageNet's by --model.weights
    imagenet, where they can be downloaded. Loss, rates and length are ours.
    """
    return Config(
        data=DataConfig(
            adapter="tiles", mask="colour", ignored=("#000000",),
            classes=("building=#3C1098", "land=#8429F6", "road=#6EC1E4", "vegetation=#FEDD3A", "water=#E2A929",
                     "unlabeled=#9B9B9B")),
        split=SplitConfig(val=("tile_2", "tile_3"), test=("tile_1", "tile_6")),
        patches=PatchesConfig(size=256, scales=(2.0,), stride=128),
        model=ModelConfig(arch="unet", encoder="resnet18"),
        loss=LossConfig(cross_entropy=1.0, dice=0.5),
        train=TrainConfig(megapixels=80, batch=8, lr=1e-3, report_every=8),
        search=SearchConfig(trials=8, megapixels=24, grace=8, space=(
            "model.arch=unet|fpn", "model.encoder=resnet18|tu-mobilenetv3_small_100", "loss.dice=0..1",
            "loss.focal=0..1", "patches.size=128|256", "patches.scales=1|2|4|1,2", "train.lr=5e-4..3e-3:log")),
        score=ScoreConfig(without=("unlabeled",)),
        track=TrackConfig(experiment="dubai"),
    )


def landcover_ai_unet_resnet18() -> Config:
    """LandCover.ai: 41 orthophotos of Poland, 5 classes, patches of 256 px; a U-Net over ResNet-18, 20 passes."""
    return _landcover_ai("unet", "resnet18")


def landcover_ai_unet_resnet50() -> Config:
    """The same, a U-Net over ResNet-50."""
    return _landcover_ai("unet", "resnet50")


def landcover_ai_fpn_resnet18() -> Config:
    """The same, an FPN over ResNet-18."""
    return _landcover_ai("fpn", "resnet18")


def _landcover_ai(arch: str, encoder: str) -> Config:
    """LandCover.ai as its users train on it, but for what is said here. For a GPU.

    Split: 70/20/10 of the ground as they have it, but by orthophoto; theirs draws patches of one orthophoto for all
    three, which leaks (--split.by block --split.block 256). The published tiles are --split.by tile --split.block 512
    --split.train @train.txt --split.val @val.txt --split.test @test.txt.
    Patches: the edge that is no multiple of the size is kept. Train patches are "relevant": 5 % or more of their labels
    are of another class than background; the rule of the tutorials' code, which drops pure woodland too, is
    --patches.min-foreground 0 --patches.min-not-lowest 0.05.
    Loss: focal and Jaccard weigh alike; segmentation_models' sum of them, for Keras, has --loss.focal 0.05 (alpha 0.25,
    and a mean over the channels, of which all but the label's are 0). Adam's rate is Keras' own, its course ours.
    Encoders begin from random weights; theirs from ImageNet's: --model.weights imagenet, where they can be downloaded.
    """
    return Config(
        data=DataConfig(adapter="landcover_ai"),
        split=SplitConfig(val_fraction=0.2, test_fraction=0.1),
        patches=PatchesConfig(size=256, min_foreground=0.05, background=("background",)),
        augment=AugmentConfig(pipeline="landcover_ai"),
        model=ModelConfig(arch=arch, encoder=encoder),
        loss=LossConfig(cross_entropy=0, focal=1, jaccard=1),
        train=TrainConfig(epochs=20, batch=16, optimiser="adam", lr=1e-3, weight_decay=0),
        search=SearchConfig(space=("model.arch=unet|fpn", "model.encoder=resnet18|resnet50", "loss.focal=0..1",
                                   "loss.jaccard=0..1", "patches.size=256|512", "patches.scales=1|2|1,2")),
        track=TrackConfig(experiment="landcover_ai"),
    )


def codalab_unet() -> Config:
    """Satellite images of 1024 px, 6 classes by colour: `*_sat.*`, `*_mask.*`, a class table; a U-Net on 128 px.

    Whole images (scale 8) and crops in full detail (scale 1), mixed; 10 passes, batches of 32. Crops do not overlap.
    Its users meant a stride of 16: 9 million crops of 2,783 images, so that a run is as long as it is told to be
    (--patches.stride 16 --train.megapixels 4000). But patches are drawn alike, one in 3,250 would be a whole image, and
    what is hardly learnt has half a say in the prediction; so it is one in 65. What they left for later: --loss.target
    one_vs_rest, and classes in balance, by --patches.balance class or --loss.class-weights sqrt. The encoder, the loss,
    the rates and the augmentation are ours; the encoder begins from random weights, from ImageNet's by --model.weights
    imagenet, where they can be downloaded. For a GPU.
    """
    return Config(
        data=DataConfig(adapter="deepglobe", mask="colour"),
        patches=PatchesConfig(size=128, scales=(1.0, 8.0), combine="mixture"),
        model=ModelConfig(arch="unet", encoder="resnet34"),
        loss=LossConfig(cross_entropy=1, dice=1),
        train=TrainConfig(epochs=10, batch=32),
        search=SearchConfig(megapixels=400, grace=100, space=(
            "model.arch=unet|deeplabv3plus", "loss.dice=0..1", "patches.size=128|256", "patches.scales=1|1,8|1,2,4")),
        track=TrackConfig(experiment="codalab"),
    )


def deepglobe() -> Config:
    """DeepGlobe's land cover: 803 labelled images of 2448 px, 6 classes; `codalab_unet` with patches of 512 px.

    Its masks are not pure: colours that no class has are ignored, and the ingest's report counts them.
    """
    base = codalab_unet()
    return replace(base, data=replace(base.data, stray="ignore"),
                   patches=PatchesConfig(size=512, scales=(1.0, 4.0), combine="mixture", stride=256),
                   loss=replace(base.loss, class_weights="sqrt"),
                   train=TrainConfig(megapixels=4000, batch=16, report_every=400),
                   track=TrackConfig(experiment="deepglobe"))


def drone_deeplabv3plus_resnet34() -> Config:
    """ICG's drone photos: 400 of 6000 x 4000 px, 23 classes; patches of 1000 px at scales 1, 2, 4; DeepLabV3+."""
    return _drone("deeplabv3plus", "resnet34")


def drone_deeplabv3plus_efficientnet_b5() -> Config:
    """The same, DeepLabV3+ over EfficientNet-B5, by micro-batches of 2."""
    return _drone("deeplabv3plus", "efficientnet-b5", micro_batch=2)


def drone_aspp_unet() -> Config:
    """The same, a U-Net with an ASPP module at the bottleneck and attention gates on the skips, over ResNet-34."""
    return _drone("aspp_unet", "resnet34")


def _drone(arch: str, encoder: str, micro_batch: int = 4) -> Config:
    """ICG's set as its users train on it: overlapping patches, several scales, accumulated gradients. For a GPU.

    The photos' scales are mixed, each patch of one; what its users were after, detail and context of the same place
    at once, is --patches.combine concentric. `unlabeled`, the first class of the table, is ignored. Patches overlap by
    half. Batch (16, of micro-batches that are halved where they do not fit), loss, rates and length are ours: theirs
    are not known. Encoders begin from random weights; theirs from ImageNet's: --model.weights imagenet, where they can
    be downloaded.
    """
    return Config(
        data=DataConfig(adapter="icg_drone", merge=("=unlabeled",)),
        patches=PatchesConfig(size=1000, scales=(1.0, 2.0, 4.0), combine="mixture", stride=500),
        augment=AugmentConfig(pipeline="drone"),
        model=ModelConfig(arch=arch, encoder=encoder),
        loss=LossConfig(cross_entropy=1, dice=1, class_weights="sqrt"),
        train=TrainConfig(epochs=10, batch=16, micro_batch=micro_batch, lr=5e-4),
        search=SearchConfig(space=("model.arch=deeplabv3plus|unet|aspp_unet", "model.encoder=resnet34|efficientnet-b5",
                                   "patches.size=512|1000", "patches.scales=1|1,2|1,2,4", "loss.dice=0..1")),
        track=TrackConfig(experiment="drone"),
    )


def obx() -> Config:
    """Photos of the Outer Banks: 165 of 920 x 614 px, 3 classes; minutes on two cores.

    The labels are lossy JPEGs: stray values at the edges of classes are ignored, and the ingest's report counts them.
    """
    return Config(
        data=DataConfig(adapter="obx", stray="ignore"),
        patches=PatchesConfig(size=256, scales=(2.0,), stride=128),
        model=ModelConfig(arch="unet", encoder="tu-mobilenetv3_small_100"),
        loss=LossConfig(cross_entropy=1, dice=0.5),
        train=TrainConfig(megapixels=60, batch=8, report_every=6),
        search=SearchConfig(trials=8, megapixels=18, grace=6, space=(
            "model.arch=unet|fpn", "loss.dice=0..1", "patches.size=128|256", "patches.scales=1|2|1,2")),
        track=TrackConfig(experiment="obx"),
    )
