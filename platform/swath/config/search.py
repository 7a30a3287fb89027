"""The search's section of a configuration."""

import math
from dataclasses import dataclass

from swath.config.rules import Section, check


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
