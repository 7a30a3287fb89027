"""The loss's section of a configuration."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from swath.config.rules import Section, check

LossName = Literal["cross_entropy", "focal", "dice", "jaccard", "tversky", "lovasz"]
ClassWeights = Literal["none", "inverse", "sqrt", "log"]


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
