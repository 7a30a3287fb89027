"""The score's section of a configuration."""

from dataclasses import dataclass
from typing import Literal

from swath.config.rules import Section, check


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Section):
    """How whole scenes are scored: the same for every patch size and model."""

    overlap: float = 0.5
    """Share of a window's side that it has in common with its neighbour."""
    part: float = 0.0
    """Megapixels of the validation sample that is scored at every report; 0: so many that, for patches of up to 512
    pixels, it costs about a tenth of the training between two reports, and a block for each class at least."""
    without: tuple[str, ...] = ()
    """Classes left out of a second mean, printed beside the first."""
    boundary_px: int = 3
    """Boundary IoU compares pixels within so many full-resolution pixels of a contour."""
    symmetries: Literal[1, 8] = 1
    """Symmetries of the square that predictions are averaged over: 8 costs eight times as much."""

    def __post_init__(self) -> None:
        check(0 <= self.overlap < 1, "score.overlap", "from 0 to below 1", self.overlap)
        check(1 <= self.boundary_px <= 255, "score.boundary_px", "from 1 to 255", self.boundary_px)
        check(self.part >= 0, "score.part", "0 or more", self.part)
