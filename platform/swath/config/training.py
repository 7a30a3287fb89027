"""The training's section of a configuration: length, optimiser, arithmetic and checkpoints."""

import math
from dataclasses import dataclass, field
from typing import Literal

from swath.config.rules import MAY_CHANGE, Section, check


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """The run's length, its optimiser and what is kept of it. Lengths are counted in megapixels seen."""

    epochs: float = 10.0
    """Length of the run in passes over the plan's patches; used where megapixels is 0."""
    megapixels: float = 0.0
    """Length of the run in megapixels seen; 0: as epochs say."""
    batch: int = 16
    """Patches in one optimiser step, over all workers."""
    micro_batch: int | Literal["auto"] = field(default=16, metadata=MAY_CHANGE)
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
    save_minutes: float = field(default=10.0, metadata=MAY_CHANGE)
    """Minutes after which a run is saved between two reports, without a score; 0: never."""
    keep: int = field(default=2, metadata=MAY_CHANGE)
    """Newest checkpoints that are kept; the best by val_part/miou is kept besides."""
    resume: str = field(default="", metadata=MAY_CHANGE)
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
