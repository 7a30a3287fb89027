"""The patches' section of a configuration: size, scales and which patches are drawn."""

import math
from dataclasses import dataclass
from typing import Literal

from swath.config.rules import Section, check

Combine = Literal["single", "mixture", "concentric"]


@dataclass(frozen=True, kw_only=True)
class PatchesConfig(Section):
    """What the network sees: patches of size x size pixels, each pixel spanning `scale` scene pixels."""

    size: int = 256
    """Side of a patch in patch pixels."""
    scales: tuple[float, ...] = (1.0,)
    """Scene pixels that one patch pixel spans, or with pixel_m so many times its metres; below 1 pixels are enlarged.
    Several with combine `mixture` or `concentric`."""
    combine: Combine = "single"
    """How scales are combined: `single` uses one; `mixture` trains on patches of all, each sample of one scale, and
    predicts at each and averages; `concentric` sees the same centre at all of them at once, from the finest, which it
    predicts, to the coarsest, and fuses them by learned weights."""
    pixel_m: float = 0.0
    """Metres that a patch pixel spans at scale 1, whatever a scene's own pixels span; 0: as the scene's own."""
    stride: int | None = None
    """Distance between neighbouring patches in patch pixels; None: as the size. The last ones are flush with the edge
    of the split's ground."""
    foreign: Literal["exclude", "ignore"] = "exclude"
    """Patches whose window (of concentric ones the coarsest) reaches over ground of no or another split: left out, or
    kept with the labels there ignored (their pixels are seen all the same: the overlap certificate counts them)."""
    min_foreground: float = 0.0
    """Relevance: least share of a training patch's labelled pixels that is not of a background class; above 0 it needs
    `background`."""
    background: tuple[str, ...] = ()
    """Classes that do not count as foreground for min_foreground."""
    min_not_lowest: float = 0.0
    """Relevance: least share of a training patch's labelled pixels that is not of the lowest class index present in it.
    The tutorials' rule, there 0.05: it drops patches of one class, whatever class that is."""
    max_ignored: float = 1.0
    """Relevance: largest share of a training patch's pixels that carry no label, padding included."""
    balance: str = "none"
    """How often training patches are drawn: `none`, each as often; `class`, a class is drawn (each of those in the
    patches as often), then a patch in proportion to its pixels of it; `sqrt`, the same with classes as often as the
    square root of their pixels; class names joined by +: half of the draws so for these, the rest as `none`."""

    def __post_init__(self) -> None:
        check(8 <= self.size <= 8192, "patches.size", "from 8 to 8192", self.size)
        check(len(self.scales) > 0 and all(1 / 8 <= s <= 64 for s in self.scales), "patches.scales",
              "from 1/8 to 64 each", self.scales)
        check(len(set(self.scales)) == len(self.scales), "patches.scales", "different from each other", self.scales)
        check(self.combine != "single" or len(self.scales) == 1, "patches.scales", "one for patches.combine single",
              self.scales)
        check(self.combine != "concentric" or (len(self.scales) > 1 and list(self.scales) == sorted(self.scales)),
              "patches.scales", "two or more, from fine to coarse, for patches.combine concentric", self.scales)
        check(0 <= self.pixel_m < math.inf, "patches.pixel_m", "0 or more", self.pixel_m)
        check(self.stride is None or self.stride >= 1, "patches.stride", "1 or more, or None for that of the size",
              self.stride)
        for name in ("min_foreground", "min_not_lowest", "max_ignored"):
            check(0 <= getattr(self, name) <= 1, f"patches.{name}", "from 0 to 1", getattr(self, name))
        check(not self.min_foreground or bool(self.background), "patches.background",
              "given where patches.min_foreground is", self.background)
        check(bool(self.balance), "patches.balance", "none, class, sqrt, or class names joined by +", self.balance)

    @property
    def step(self) -> int:
        """Distance between neighbouring patches in patch pixels."""
        return self.size if self.stride is None else self.stride

    @property
    def together(self) -> bool:
        """Whether a sample shows all scales at once, around one centre."""
        return self.combine == "concentric"

    @property
    def at_once(self) -> int:
        """How many scales a sample shows."""
        return len(self.scales) if self.together else 1

    @property
    def placed(self) -> tuple[float, ...]:
        """The scales that have patches, labels and predictions of their own: of concentric ones the finest."""
        return self.scales[:1] if self.together else self.scales
