"""The augmentation's section of a configuration."""

from dataclasses import dataclass

from swath.config.rules import Section, check


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Section):
    """How training patches are varied."""

    pipeline: str = "aerial"
    """How patches are varied (swath.loading.augment says it in full): none, as they are; flips, the eight symmetries of
    the square, for any number and type of bands; aerial, a strong default for imagery from above; landcover_ai, as
    LandCover.ai's users train; drone, the longest, for photographs from drones; or MODULE:NAME, a pipeline of your own:
    a function of a patch's size and `rgb` that returns a transform of albumentations."""
    rgb: tuple[int, int, int] = (1, 2, 3)
    """The bands, counted from 1, that are red, green and blue: colour, blur and noise change these and no others. A
    grey band stands three times (1,1,1); hue and saturation are then left out."""

    def __post_init__(self) -> None:
        check(bool(self.pipeline), "augment.pipeline", "given", self.pipeline)
        check(min(self.rgb) >= 1 and len(set(self.rgb)) in (1, 3), "augment.rgb",
              "three different bands, counted from 1, or a grey one three times", self.rgb)
