"""Section `train` of a configuration: length, optimiser, numeric precision and checkpoints."""

import math
from dataclasses import dataclass, field
from typing import Literal

from swath.config.rules import MAY_CHANGE, Section, check


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """Length of the run, optimiser, numeric precision and checkpoints. Lengths are in megapixels seen."""

    epochs: float = 10.0
    """Length of the run in epochs (passes over the patches of the plan). Used if megapixels is 0."""
    megapixels: float = 0.0
    """Length of the run in megapixels seen. 0: use train.epochs."""
    batch: int = 16
    """Batch size: number of patches in one optimiser step, over all workers."""
    micro_batch: int | Literal["auto"] = field(default=16, metadata=MAY_CHANGE)
    """Micro-batch: maximum number of patches that one worker puts through the network at once. Gradients are
    accumulated over the worker's share of the batch. `auto` finds the largest number that fits the GPU by trial;
    without a GPU it takes one megapixel. If the device still runs out of memory, the micro-batch is halved and
    the run notes it."""
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimiser of the weights."""
    momentum: float = 0.9
    """Momentum of the optimiser sgd."""
    lr: float = 1e-3
    """Peak learning rate."""
    encoder_lr: float = 1.0
    """Learning rate of the encoder, as a multiple of train.lr."""
    weight_decay: float = 1e-2
    """Weight decay of the optimiser."""
    schedule: Literal["constant", "cosine", "poly", "one_cycle", "stable_decay"] = "cosine"
    """Learning rate schedule after the warm-up.
    - `constant`: the peak learning rate.
    - `cosine`: a cosine to 0 at the end of the run.
    - `poly`: (remaining share)^0.9.
    - `one_cycle`: one cycle; its warm-up is a cosine that starts at 1/25 of the peak.
    - `stable_decay`: constant, then linear to 0 in the last `train.decay` of the run."""
    warmup: float = 0.05
    """Warm-up: share of the run in which the learning rate rises, linearly from 0."""
    decay: float = 0.2
    """Share of the run in which the learning rate falls. Only for schedule stable_decay."""
    freeze: float = 0.0
    """Share of the run, from its start, in which the encoder is frozen, including its normalisation layers. 0: never
    frozen."""
    ema: float = 0.0
    """Half-life, in megapixels seen, of the exponential moving average (EMA) of the weights. If it is above 0, the
    averaged weights are scored and kept for prediction. 0: no average."""
    clip: float = 1.0
    """Gradient clipping: maximum norm of the gradient. 0: no clipping."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Numeric precision of the network. `auto` takes bf16 on a GPU that supports it, fp16 with loss scaling on other
    GPUs, and fp32 on a CPU."""
    channels_last: bool = True
    """Channels-last memory layout for images and weights on a GPU, as tensor cores need it."""
    compile: bool = False
    """Compile the network with torch.compile. This takes a minute or more at the start."""
    report_every: float = 0.0
    """Megapixels seen between two reports. A report scores the validation sample and writes a checkpoint. 0: one
    report per pass over the labelled pixels of the train split."""
    save_minutes: float = field(default=10.0, metadata=MAY_CHANGE)
    """Minutes between two checkpoints that are saved without a score, between reports. 0: never."""
    keep: int = field(default=2, metadata=MAY_CHANGE)
    """Number of newest checkpoints to keep. The best one by val_part/miou is kept in addition."""
    resume: str = field(default="", metadata=MAY_CHANGE)
    """Run to resume: a run id or a checkpoint folder of the same configuration. Training continues from it as if it
    were this run. Ignored once this run has a checkpoint of its own. Empty: none."""
    seed: int = 0
    """Random seed of the weights, the patch order and the augmentation."""

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
        check(0 <= self.momentum < 1, "train.momentum", "at least 0 and below 1", self.momentum)
        check(self.weight_decay >= 0, "train.weight_decay", "0 or more", self.weight_decay)
        for name in ("warmup", "freeze"):
            check(0 <= getattr(self, name) < 1, f"train.{name}", "at least 0 and below 1", getattr(self, name))
        check(0 < self.decay <= 1, "train.decay", "above 0 and at most 1", self.decay)
        check(self.schedule != "stable_decay" or self.warmup + self.decay <= 1, "train.warmup + train.decay",
              "at most 1", self.warmup + self.decay)
        check(0 <= self.ema < math.inf, "train.ema", "0 or more", self.ema)
        check(self.clip >= 0, "train.clip", "0 or more", self.clip)
        for name in ("report_every", "save_minutes"):
            check(0 <= getattr(self, name) < math.inf, f"train.{name}", "0 or more", getattr(self, name))
