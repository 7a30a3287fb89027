"""The loss's section of a configuration."""

import math
from dataclasses import dataclass, field, fields
from typing import Literal

from swath.config.rules import Section, check

ClassWeights = Literal["none", "inverse", "sqrt", "log"]
_PIXEL = {"term": "pixel"}
"""Metadata of the weight of a loss that is taken for each pixel."""
_REGION = {"term": "region"}
"""Metadata of the weight of a loss that is taken for each sample, over the regions of its classes."""


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """A weighted sum of losses over labelled pixels; a weight of 0 leaves one out.

    Dice, Jaccard, Tversky and Lovász are taken for each sample, over the classes that its labels have.
    """

    target: Literal["softmax", "one_vs_rest"] = "softmax"
    """What the network's channels are: shares of one softmax, or for each class a sigmoid of its own that tells it from
    the rest, trained by each loss's binary form, averaged over the classes. The largest is the class either way."""
    cross_entropy: float = field(default=1.0, metadata=_PIXEL)
    """Weight of the cross-entropy."""
    focal: float = field(default=0.0, metadata=_PIXEL)
    """Weight of the focal loss."""
    dice: float = field(default=0.0, metadata=_REGION)
    """Weight of the Dice loss."""
    jaccard: float = field(default=0.0, metadata=_REGION)
    """Weight of the Jaccard loss."""
    tversky: float = field(default=0.0, metadata=_REGION)
    """Weight of the Tversky loss."""
    lovasz: float = field(default=0.0, metadata=_REGION)
    """Weight of the Lovász loss: the Jaccard loss's convex extension, sorted by error."""
    custom: str = ""
    """A loss of your own, MODULE:NAME: a function of scores (N, K, H, W), labels (N, H, W) and the ignored label that
    returns one loss for each sample (N,). Empty: none."""
    custom_weight: float = 1.0
    """Weight of the loss of your own."""
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
        weights = {name: getattr(self, name) for name in (*LOSSES, "custom_weight")}
        check(all(0 <= w < math.inf for w in weights.values()), "loss weights", "0 or more", weights)
        check(bool(self.terms), "loss weights", "above 0 for at least one loss", weights)
        check(0 <= self.gamma < math.inf, "loss.gamma", "0 or more", self.gamma)
        for name in ("alpha", "beta"):
            check(0 < getattr(self, name) < math.inf, f"loss.{name}", "above 0", getattr(self, name))

    @property
    def terms(self) -> dict[str, float]:
        """The losses in use, with their weights; a loss of one's own goes by its path."""
        own = {self.custom: self.custom_weight} if self.custom else {}
        weights = {name: getattr(self, name) for name in LOSSES} | own
        return {name: weight for name, weight in weights.items() if weight > 0}

    def has(self, kind: Literal["pixel", "region"]) -> bool:
        """Whether a loss of a kind is in use."""
        return any(LOSSES.get(name) == kind for name in self.terms)


LOSSES: dict[str, str] = {f.name: f.metadata["term"] for f in fields(LossConfig) if "term" in f.metadata}
"""The losses that have a name, each with its kind, `pixel` or `region`: the fields of LossConfig that weigh one."""
