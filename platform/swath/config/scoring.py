"""Section `score` of a configuration: how whole scenes are scored."""

from dataclasses import dataclass
from typing import Literal

from swath.config.rules import Section, check


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Section):
    """How whole scenes are scored. The rules are the same for every patch size and model."""

    overlap: float = 0.5
    """Overlap of neighbouring prediction windows, as a share of the window's side."""
    part: float = 0.0
    """Size in megapixels of the validation sample scored at each report. 0 chooses it so that scoring takes
    about 10 % of training time (for patches up to 512 px), with at least one block per class."""
    without: tuple[str, ...] = ()
    """Classes that are left out of a second mean IoU, which is printed beside the first."""
    boundary_px: int = 3
    """Boundary IoU width in full-resolution pixels: it compares only pixels that are at most this far from a
    contour."""
    symmetries: Literal[1, 8] = 1
    """Test-time augmentation: number of symmetries of the square over which predictions are averaged. 8 takes eight
    times as long as 1."""

    def __post_init__(self) -> None:
        check(0 <= self.overlap < 1, "score.overlap", "at least 0 and below 1", self.overlap)
        check(1 <= self.boundary_px <= 255, "score.boundary_px", "from 1 to 255", self.boundary_px)
        check(self.part >= 0, "score.part", "0 or more", self.part)
