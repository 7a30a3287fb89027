"""Section `search` of a configuration: the trials of a hyperparameter search."""

import math
from dataclasses import dataclass

from swath.config.rules import Section, check


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Section):
    """A search over configurations. Lengths are in megapixels seen."""

    trials: int = 20
    """Number of configurations to try."""
    space: tuple[str, ...] = (
        "model.arch=unet|fpn|deeplabv3plus", "model.encoder=resnet18|resnet50|efficientnet-b0|tu-mobilenetv3_large_100",
        "loss.focal=0..1", "loss.dice=0..1", "loss.jaccard=0..1", "loss.class_weights=none|sqrt",
        "patches.size=128|256|512", "patches.scales=1|2|4|1,2", "train.lr=3e-4..3e-3:log")
    """Fields to search, each written FIELD=A|B|C, FIELD=LOW..HIGH or FIELD=LOW..HIGH:log. Separate the values of a
    field that takes several by commas (patches.scales=1|1,2). If the patch size changes, the batch keeps its
    number of pixels."""
    megapixels: float = 0.0
    """Length of a trial that is not stopped early, in megapixels seen. 0: the length of the run as train.* sets it."""
    grace: float = 0.0
    """Megapixels that every trial trains before it can be stopped (ASHA's grace period); 0 means one ninth of
    search.megapixels."""
    reduction: float = 3.0
    """ASHA's reduction factor η: at each rung (grace, η·grace, η²·grace, …) the best 1/η of the trials continue."""
    concurrent: int = 0
    """Maximum number of trials at the same time. 0: as many as the GPUs allow; without GPUs, as many as the CPU
    cores allow, but at most 4."""
    seed: int = 0
    """Random seed of the search algorithm."""

    def __post_init__(self) -> None:
        check(self.trials >= 1, "search.trials", "1 or more", self.trials)
        for name in ("megapixels", "grace"):
            check(0 <= getattr(self, name) < math.inf, f"search.{name}", "0 or more", getattr(self, name))
        check(1 < self.reduction < math.inf, "search.reduction", "above 1", self.reduction)
        check(self.concurrent >= 0, "search.concurrent", "0 or more", self.concurrent)
        check(self.seed >= 0, "search.seed", "0 or more", self.seed)
