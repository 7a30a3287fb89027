"""The augmentation's section of a configuration."""

from dataclasses import dataclass
from typing import Literal

from swath.config.rules import Section, check


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Section):
    """How training patches are varied."""

    pipeline: Literal["none", "flips", "aerial", "landcover_ai", "drone"] = "aerial"
    """One of the named pipelines (swath.augment says what each does): patches as they are; the eight symmetries of the
    square, for any number and type of bands; a strong default for imagery from above; the one of LandCover.ai's users;
    the longest, for photographs from drones."""
    rgb: tuple[int, int, int] = (1, 2, 3)
    """The bands, counted from 1, that are red, green and blue: colour, blur and noise change these and no others. A
    grey band stands three times (1,1,1); hue and saturation are then left out."""

    def __post_init__(self) -> None:
        check(min(self.rgb) >= 1 and len(set(self.rgb)) in (1, 3), "augment.rgb",
              "three different bands, counted from 1, or a grey one three times", self.rgb)
