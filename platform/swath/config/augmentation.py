"""Section `augment` of a configuration: how training patches are augmented."""

from dataclasses import dataclass

from swath.config.rules import Section, check


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Section):
    """How training patches are augmented."""

    pipeline: str = "aerial"
    """Augmentation pipeline for training patches. `swath.loading.augment` describes each one in full.
    - `none`: patches stay as they are stored.
    - `flips`: the eight symmetries of the square; works for any number and type of bands.
    - `aerial`: a strong default for imagery taken from above.
    - `landcover_ai`: the pipeline that users of LandCover.ai published.
    - `drone`: the longest pipeline, for photographs from drones.
    - MODULE:NAME: a pipeline of your own, a function of a patch's size and `rgb` that returns an albumentations
    transform."""
    rgb: tuple[int, int, int] = (1, 2, 3)
    """Band numbers of red, green and blue, counted from 1. Colour, blur and noise change these bands and no others.
    For a grey band, repeat its number three times (1,1,1); hue and saturation are then left out."""

    def __post_init__(self) -> None:
        check(bool(self.pipeline), "augment.pipeline", "given", self.pipeline)
        check(min(self.rgb) >= 1 and len(set(self.rgb)) in (1, 3), "augment.rgb",
              "three different band numbers, counted from 1, or one number three times (a grey band)", self.rgb)
