"""Sections of a configuration on how a model is made: network, loss, training, score, machines, search, records."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from swath.section import Section, check

LossName = Literal["cross_entropy", "focal", "dice", "jaccard", "tversky", "lovasz"]
ClassWeights = Literal["none", "inverse", "sqrt", "log"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The network: an architecture of segmentation-models-pytorch, or our own, over an encoder of it or timm."""

    arch: str = "unet"
    """Architecture, as segmentation-models-pytorch names it: unet, fpn, deeplabv3plus, segformer, dpt (for vision
    transformers), …; or `aspp_unet`, a U-Net with an ASPP module at the bottleneck and attention gates on the skips."""
    encoder: str = "resnet18"
    """Encoder, as segmentation-models-pytorch names it; tu-NAME or tu-NAME.TAG for one of timm's."""
    weights: str = "none"
    """Encoder weights: `none`; `imagenet` (of timm's: those that come with its name); another name that the encoder's
    makers gave (of timm's: the tag, such as sat493m); or a file (safetensors or a state dict)."""
    init_from: str = ""
    """MLflow run id or checkpoint folder of the same network: begin with its weights, also on other data, bands and
    classes (which are known by their names); empty: as `weights` says."""
    aspp: bool = True
    """Arch `aspp_unet`: with the ASPP module. Without it and the gates that is the plain U-Net."""
    attention: bool = True
    """Arch `aspp_unet`: with the attention gates."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation layers: `group` and `none` make the result independent of how a batch is cut."""

    def __post_init__(self) -> None:
        for name in ("arch", "encoder", "weights"):
            check(bool(getattr(self, name)), f"model.{name}", "given", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """A weighted sum of losses over labelled pixels; a weight of 0 leaves one out.

    Dice, Jaccard, Tversky and Lovász are taken for each sample, over the classes that its labels have.
    """

    target: Literal["softmax", "one_vs_rest"] = "softmax"
    """What the network's channels are: shares of one softmax, or for each class a sigmoid of its own that tells it from
    the rest, trained by each loss's binary form, averaged over the classes. The largest is the class either way."""
    cross_entropy: float = 1.0
    """Weight of the cross-entropy."""
    focal: float = 0.0
    """Weight of the focal loss."""
    dice: float = 0.0
    """Weight of the Dice loss."""
    jaccard: float = 0.0
    """Weight of the Jaccard loss."""
    tversky: float = 0.0
    """Weight of the Tversky loss."""
    lovasz: float = 0.0
    """Weight of the Lovász loss: the Jaccard loss's convex extension, sorted by error."""
    gamma: float = 2.0
    """Focusing exponent of the focal loss."""
    alpha: float = 0.3
    """What the Tversky loss charges for a pixel that is wrongly given to a class."""
    beta: float = 0.7
    """What it charges for a pixel of the class that is missed (alpha and beta 0.5: Dice; 1: Jaccard)."""
    class_weights: ClassWeights = "none"
    """Weight of a class's pixels in cross-entropy and focal, from its share of the train cells' labels: none, 1/share,
    1/sqrt(share), or 1/ln(1.02 + share), which is bounded; scaled to a mean of 1 over labelled pixels."""

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in get_args(LossName)}
        check(all(0 <= w < math.inf for w in weights.values()), "loss weights", "0 or more", weights)
        check(any(weights.values()), "loss weights", "above 0 for at least one loss", weights)
        check(0 <= self.gamma < math.inf, "loss.gamma", "0 or more", self.gamma)
        for name in ("alpha", "beta"):
            check(0 < getattr(self, name) < math.inf, f"loss.{name}", "above 0", getattr(self, name))

    @property
    def terms(self) -> dict[LossName, float]:
        """The losses in use, with their weights."""
        return {name: getattr(self, name) for name in get_args(LossName) if getattr(self, name) > 0}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """The run's length, its optimiser and what is kept of it. Lengths are counted in megapixels seen."""

    epochs: float = 10.0
    """Length of the run in passes over the plan's patches; used where megapixels is 0."""
    megapixels: float = 0.0
    """Length of the run in megapixels seen; 0: as epochs say."""
    batch: int = 16
    """Patches in one optimiser step, over all workers."""
    micro_batch: int | Literal["auto"] = 16
    """Most patches that one worker puts through the network at once; the rest of its share is accumulated. auto: as
    many as fit a GPU, found by trial (without one: a megapixel). What runs out of memory all the same is halved, and
    said."""
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimiser."""
    momentum: float = 0.9
    """Momentum of sgd."""
    lr: float = 1e-3
    """Peak learning rate."""
    encoder_lr: float = 1.0
    """Learning rate of the encoder, as a share of lr."""
    weight_decay: float = 1e-2
    """Weight decay."""
    schedule: Literal["constant", "cosine", "poly", "one_cycle", "stable_decay"] = "cosine"
    """Learning rate after the warm-up: constant; a cosine to 0 at the end; what is left of the run to the power of 0.9;
    one cycle, whose warm-up is a cosine from 1/25; or constant, then linear to 0 in the last `decay`."""
    warmup: float = 0.05
    """Share of the run in which the learning rate rises, linearly from 0."""
    decay: float = 0.2
    """Schedule stable_decay: share of the run in which the learning rate falls."""
    freeze: float = 0.0
    """Share of the run, from its beginning, in which the encoder stays as it is, its normalisation too."""
    ema: float = 0.0
    """Half-life, in megapixels seen, of an exponential moving average of the weights, which is then what is scored and
    kept for use; 0: none."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: not clipped."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network: auto is bf16 on a GPU that has it, fp16 on others (the loss is scaled), and fp32 on a
    CPU."""
    channels_last: bool = True
    """Lay a GPU's images and weights out with the channels last, as its tensor cores take them."""
    compile: bool = False
    """Compile the network by torch.compile, which takes a minute or more at the start."""
    report_every: float = 0.0
    """Megapixels between two reports (validation, checkpoint); 0: as many as the train split has labelled."""
    save_minutes: float = 10.0
    """Minutes after which a run is saved between two reports, without a score; 0: never."""
    keep: int = 2
    """Newest checkpoints that are kept; the best by val_part/miou is kept besides."""
    resume: str = ""
    """Run to go on from as if it were this one, while this one has no checkpoint of its own: a run id or a checkpoint
    folder, of the same configuration; empty: none."""
    seed: int = 0
    """Seed of the weights, the order and the augmentation."""

    def __post_init__(self) -> None:
        check(0 < self.epochs < math.inf, "train.epochs", "above 0", self.epochs)
        check(0 <= self.megapixels < math.inf, "train.megapixels", "0 or more", self.megapixels)
        check(self.seed >= 0, "train.seed", "0 or more", self.seed)
        for name in ("batch", "keep"):
            check(getattr(self, name) >= 1, f"train.{name}", "1 or more", getattr(self, name))
        check(self.micro_batch == "auto" or self.micro_batch >= 1, "train.micro_batch", "auto, or 1 or more",
              self.micro_batch)
        check(0 < self.lr < math.inf, "train.lr", "above 0", self.lr)
        check(0 <= self.encoder_lr < math.inf, "train.encoder_lr", "0 or more", self.encoder_lr)
        check(0 <= self.momentum < 1, "train.momentum", "from 0 to below 1", self.momentum)
        check(self.weight_decay >= 0, "train.weight_decay", "0 or more", self.weight_decay)
        for name in ("warmup", "freeze"):
            check(0 <= getattr(self, name) < 1, f"train.{name}", "from 0 to below 1", getattr(self, name))
        check(0 < self.decay <= 1, "train.decay", "above 0, to 1", self.decay)
        check(self.schedule != "stable_decay" or self.warmup + self.decay <= 1, "train.warmup + train.decay",
              "at most 1", self.warmup + self.decay)
        check(0 <= self.ema < math.inf, "train.ema", "0 or more", self.ema)
        check(self.clip >= 0, "train.clip", "0 or more", self.clip)
        for name in ("report_every", "save_minutes"):
            check(0 <= getattr(self, name) < math.inf, f"train.{name}", "0 or more", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Section):
    """How whole scenes are scored: the same for every patch size and model."""

    overlap: float = 0.5
    """Share of a window's side that it has in common with its neighbour."""
    part: float = 0.0
    """Megapixels of the validation sample that is scored at every report; 0: so many that, for patches of up to 512
    pixels, it costs about a tenth of the training between two reports, and a block for each class at least."""
    without: tuple[str, ...] = ()
    """Classes left out of a second mean, printed beside the first."""
    boundary_px: int = 3
    """Boundary IoU compares pixels within so many full-resolution pixels of a contour."""
    symmetries: Literal[1, 8] = 1
    """Symmetries of the square that predictions are averaged over: 8 costs eight times as much."""

    def __post_init__(self) -> None:
        check(0 <= self.overlap < 1, "score.overlap", "from 0 to below 1", self.overlap)
        check(1 <= self.boundary_px <= 255, "score.boundary_px", "from 1 to 255", self.boundary_px)
        check(self.part >= 0, "score.part", "0 or more", self.part)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(Section):
    """The machines: what one run may use."""

    workers: int = 1
    """Processes that train together. By Ray Train, but for a single one without an address: that is this process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of a worker; auto takes a GPU where there is one."""
    cpus: int = 0
    """CPU cores of a worker; 0: those of the machine or the cluster, divided among all workers that run at once."""
    address: str = ""
    """Ray cluster to use; empty: $RAY_ADDRESS, or a cluster of its own on this machine."""
    restarts: int = 2
    """How often a run goes on from its checkpoint after a worker was lost or failed."""
    wait_s: float = 60.0
    """Seconds that a run which has lost a worker or a node waits for room for all of its workers, before it goes on
    with fewer: the most that there is room for and that divide train.batch."""
    readers: int = 2
    """Processes that read and augment patches ahead, for each worker; 0: none, all of it in the worker itself."""
    stuck_s: float = 300.0
    """Seconds without a batch after which a reader is taken to hang, and the run ends with an error (not with readers
    0: there reading has no limit)."""

    def __post_init__(self) -> None:
        check(self.workers >= 1, "cluster.workers", "1 or more", self.workers)
        for name in ("cpus", "restarts", "readers"):
            check(getattr(self, name) >= 0, f"cluster.{name}", "0 or more", getattr(self, name))
        check(0 <= self.wait_s <= 1e6, "cluster.wait_s", "0 to a million", self.wait_s)
        check(0 < self.stuck_s <= 1e6, "cluster.stuck_s", "above 0, to a million", self.stuck_s)


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Section):
    """A search over configurations. Lengths are counted in megapixels seen."""

    trials: int = 20
    """Configurations to try."""
    space: tuple[str, ...] = (
        "model.arch=unet|fpn|deeplabv3plus", "model.encoder=resnet18|resnet50|efficientnet-b0|tu-mobilenetv3_large_100",
        "loss.focal=0..1", "loss.dice=0..1", "loss.jaccard=0..1", "loss.class_weights=none|sqrt",
        "patches.size=128|256|512", "patches.scales=1|2|4|1,2", "train.lr=3e-4..3e-3:log")
    """What varies, each as FIELD=A|B|C, FIELD=LOW..HIGH or FIELD=LOW..HIGH:log; a field of several values has them with
    commas (patches.scales=1|1,2). With another patch size the batch stays constant in pixels."""
    megapixels: float = 0.0
    """Length of a trial that is not stopped; 0: the run's own length."""
    grace: float = 0.0
    """Length that every trial is given before it may be stopped; 0: a ninth of the longest."""
    reduction: float = 3.0
    """At grace, and at every length so many times the last, the best one in so many goes on."""
    concurrent: int = 0
    """Trials at once, at most; 0: as many as there are GPUs for, or without GPUs as many as there are cores for, but
    no more than 4."""
    seed: int = 0
    """Seed of the searcher."""

    def __post_init__(self) -> None:
        check(self.trials >= 1, "search.trials", "1 or more", self.trials)
        for name in ("megapixels", "grace"):
            check(0 <= getattr(self, name) < math.inf, f"search.{name}", "0 or more", getattr(self, name))
        check(1 < self.reduction < math.inf, "search.reduction", "above 1", self.reduction)
        check(self.concurrent >= 0, "search.concurrent", "0 or more", self.concurrent)
        check(self.seed >= 0, "search.seed", "0 or more", self.seed)


@dataclass(frozen=True, kw_only=True)
class TrackConfig(Section):
    """Where runs are recorded."""

    experiment: str = "swath"
    """MLflow experiment."""
    name: str = ""
    """Name of the run; empty: from the recipe's architecture, encoder and patches."""
    uri: str = ""
    """MLflow tracking store; empty: $MLFLOW_TRACKING_URI, or an SQLite file in the working directory."""
    samples: str = ""
    """Folder in which each worker writes what it was trained on: a line of JSON a step, with its patches' numbers in
    the plan and its share of the loss; empty: not written."""
