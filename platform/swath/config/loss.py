"""Section `loss` of a configuration: the weighted losses of a run."""

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
    """Weighted sum of losses over labelled pixels. A weight of 0 leaves a loss out.

    Dice, Jaccard, Tversky and Lovász losses are computed for each sample, over the classes that occur in its
    labels."""

    target: Literal["softmax", "one_vs_rest"] = "softmax"
    """Meaning of the network's output channels. In both cases the class with the largest output is predicted.
    - `softmax`: one softmax over all classes.
    - `one_vs_rest`: a sigmoid for each class against the rest; losses use their binary form, averaged over classes."""
    cross_entropy: float = field(default=1.0, metadata=_PIXEL)
    """Weight of the cross-entropy loss."""
    focal: float = field(default=0.0, metadata=_PIXEL)
    """Weight of the focal loss."""
    dice: float = field(default=0.0, metadata=_REGION)
    """Weight of the Dice loss."""
    jaccard: float = field(default=0.0, metadata=_REGION)
    """Weight of the Jaccard loss."""
    tversky: float = field(default=0.0, metadata=_REGION)
    """Weight of the Tversky loss."""
    lovasz: float = field(default=0.0, metadata=_REGION)
    """Weight of the Lovász loss, the convex extension of the Jaccard loss over pixels sorted by error."""
    custom: str = ""
    """A loss of your own, MODULE:NAME: a function of scores (N, K, H, W), labels (N, H, W) and the ignored label that
    returns one loss for each sample (N,). Empty: none."""
    custom_weight: float = 1.0
    """Weight of the loss of your own."""
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
