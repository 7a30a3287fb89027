"""Section `patches` of a configuration: their size and scales, and how often each patch is drawn."""

import math
from dataclasses import dataclass
from typing import Literal

from swath.config.rules import Section, check

Combine = Literal["single", "mixture", "concentric"]


class CombinedScales:
    """The scales of a sample and of its placement. They follow from `scales` and `combine` of a dataclass."""

    scales: tuple[float, ...]
    combine: Combine

    @property
    def is_concentric(self) -> bool:
        """Whether a sample shows all scales, around the same centre."""
        return self.combine == "concentric"

    @property
    def scales_per_sample(self) -> int:
        """Number of scales that a sample shows."""
        return len(self.scales) if self.is_concentric else 1

    @property
    def placement_scales(self) -> tuple[float, ...]:
        """The scales at which patches are placed, labelled and predicted: the finest if concentric, else all."""
        return self.scales[:1] if self.is_concentric else self.scales


@dataclass(frozen=True, kw_only=True)
class PatchesConfig(CombinedScales, Section):
    """What the network sees: patches of size x size pixels. Each patch pixel spans `scale` scene pixels."""

    size: int = 256
    """Side of a patch in patch pixels."""
    scales: tuple[float, ...] = (1.0,)
    """Scales: number of scene pixels that one patch pixel spans. With patches.pixel_m, a scale is a multiple of
    that length instead. A scale below 1 enlarges the scene's pixels. Several scales need combine `mixture`
    or `concentric`."""
    combine: Combine = "single"
    """How several scales are combined.
    - `single`: uses one scale.
    - `mixture`: trains on patches of all scales, each sample at one scale; predicts at each scale and averages.
    - `concentric`: sees the same centre at every scale in one sample, fuses them with learned attention, and
    predicts at the finest."""
    pixel_m: float = 0.0
    """Size of a patch pixel at scale 1, in metres on the ground, for all scenes. 0: the pixel size of each scene."""
    stride: int | None = None
    """Distance between neighbouring patches in patch pixels. None: the patch size. The last patches of a row or
    column are flush with the edge of the split's ground."""
    foreign: Literal["exclude", "ignore"] = "exclude"
    """What to do with patches that reach into cells of another split, or of none. For concentric patches the
    coarsest window decides.
    - `exclude`: drops them.
    - `ignore`: keeps them and ignores the foreign labels (the overlap certificate still counts their pixels)."""
    min_foreground: float = 0.0
    """Minimum foreground: share of a training patch's labelled pixels that must not be of a background class. A
    value above 0 needs `patches.background`. 0: off."""
    background: tuple[str, ...] = ()
    """Classes that do not count as foreground for min_foreground."""
    min_not_lowest: float = 0.0
    """Minimum share of labelled pixels not belonging to the lowest class index present in the patch. Reproduces the
    rule of common tutorials (0.05), which drops single-class patches. 0: off."""
    max_ignored: float = 1.0
    """Maximum share of a training patch's pixels that have no label. Padding counts as unlabelled. 1: off."""
    balance: str = "none"
    """Class balance: how often each training patch is drawn.
    - `none`: every patch equally often.
    - `class`: draws a class, each that occurs in the patches equally often, then a patch in proportion to its
    pixels of it.
    - `sqrt`: like `class`, but a class is drawn in proportion to the square root of its pixels.
    - `a+b` (class names joined by +): half of the draws are like `class` for these classes, the rest like `none`."""

    def __post_init__(self) -> None:
        check(8 <= self.size <= 8192, "patches.size", "from 8 to 8192", self.size)
        check(len(self.scales) > 0 and all(1 / 8 <= s <= 64 for s in self.scales), "each of patches.scales",
              "from 1/8 to 64", self.scales)
        check(len(set(self.scales)) == len(self.scales), "patches.scales", "different from each other", self.scales)
        check(self.combine != "single" or len(self.scales) == 1, "patches.scales",
              "a single scale if patches.combine is single", self.scales)
        check(self.combine != "concentric" or (len(self.scales) > 1 and list(self.scales) == sorted(self.scales)),
              "patches.scales", "two or more, from fine to coarse, if patches.combine is concentric", self.scales)
        check(0 <= self.pixel_m < math.inf, "patches.pixel_m", "0 or more", self.pixel_m)
        check(self.stride is None or self.stride >= 1, "patches.stride", "1 or more, or None (the patch size)",
              self.stride)
        for name in ("min_foreground", "min_not_lowest", "max_ignored"):
            check(0 <= getattr(self, name) <= 1, f"patches.{name}", "from 0 to 1", getattr(self, name))
        check(not self.min_foreground or bool(self.background), "patches.background",
              "given if patches.min_foreground is above 0", self.background)
        check(bool(self.balance), "patches.balance", "none, class, sqrt, or class names joined by +", self.balance)

    @property
    def step(self) -> int:
        """Distance between neighbouring patches in patch pixels."""
        return self.size if self.stride is None else self.stride
