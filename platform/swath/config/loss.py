"""Section `loss` of a configuration: the weighted losses of a run."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from swath.config.rules import Section, check

LossName = Literal["cross_entropy", "focal", "dice", "jaccard", "tversky", "lovasz"]
ClassWeights = Literal["none", "inverse", "sqrt", "log"]


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """Weighted sum of losses over labelled pixels. A weight of 0 leaves a loss out.

    Dice, Jaccard, Tversky and Lovász losses are computed for each sample, over the classes that occur in its
    labels."""

    target: Literal["softmax", "one_vs_rest"] = "softmax"
    """Meaning of the network's output channels. In both cases the class with the largest output is predicted.
    - `softmax`: one softmax over all classes.
    - `one_vs_rest`: a sigmoid for each class against the rest; losses use their binary form, averaged over classes."""
    cross_entropy: float = 1.0
    """Weight of the cross-entropy loss."""
    focal: float = 0.0
    """Weight of the focal loss."""
    dice: float = 0.0
    """Weight of the Dice loss."""
    jaccard: float = 0.0
    """Weight of the Jaccard loss."""
    tversky: float = 0.0
    """Weight of the Tversky loss."""
    lovasz: float = 0.0
    """Weight of the Lovász loss, the convex extension of the Jaccard loss over pixels sorted by error."""
    gamma: float = 2.0
    """Focusing exponent of the focal loss."""
    alpha: float = 0.3
    """Tversky weight of false positives: pixels wrongly predicted as the class."""
    beta: float = 0.7
    """Tversky weight of false negatives: missed pixels of the class. Alpha = beta = 0.5 is Dice, alpha = beta = 1 is
    Jaccard."""
    class_weights: ClassWeights = "none"
    """Weights of the classes in cross-entropy and focal loss, from each class's share of the labels in the train
    cells. They are scaled to a mean of 1 over labelled pixels.
    - `none`: all classes weigh the same.
    - `inverse`: 1/share.
    - `sqrt`: 1/sqrt(share).
    - `log`: 1/ln(1.02 + share), which is bounded."""

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in get_args(LossName)}
        check(all(0 <= w < math.inf for w in weights.values()), "loss weights", "0 or more", weights)
        check(any(weights.values()), "loss weights", "above 0 for at least one loss", weights)
        check(0 <= self.gamma < math.inf, "loss.gamma", "0 or more", self.gamma)
        for name in ("alpha", "beta"):
            check(0 < getattr(self, name) < math.inf, f"loss.{name}", "above 0", getattr(self, name))

    @property
    def terms(self) -> dict[LossName, float]:
        """The losses with a weight above 0, and their weights."""
        return {name: getattr(self, name) for name in get_args(LossName) if getattr(self, name) > 0}
