"""The protocol: what was scored, and how. It stands with every score."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from swath.errors import DataError
from swath.scoring.metrics import Uncovered
from swath.splits.division import SplitName

_TEST_TIME = ("overlap", "symmetries", "uncovered")
"""Fields of a protocol that say how a prediction was made, not what was scored."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What was scored, and how. Scores of different protocols are not comparable."""

    split: SplitName
    cells: str
    """Digest of the cells that are in the split, of every scene."""
    store: str
    """Fingerprint of the store."""
    classes: tuple[str, ...]
    """The classes that the mean is over: those with labelled pixels in the split."""
    ignored: tuple[int, ...]
    boundary_px: int
    """Distance from a contour within which pixels count for the boundary IoU."""
    overlap: float | None
    """Share of windows that overlap; none for a map that was made elsewhere, as in the two below."""
    symmetries: int | None
    """Symmetries of the square that predictions are averaged over."""
    uncovered: Uncovered | None = None
    """What becomes of pixels that a map leaves out; none for a network, which leaves none."""

    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for the protocol."""
        return digest(asdict(self))

    def ground(self) -> str:
        """The same without the settings of prediction: scores on one ground may be compared, such as a map's that was
        made elsewhere and a run's."""
        return digest({name: value for name, value in asdict(self).items() if name not in _TEST_TIME})

    def tags(self) -> dict[str, str]:
        """Both digests as they stand with a record: swath.protocol for the validation split, which every run is scored
        on, and swath.protocol.test for that one."""
        name = "swath.protocol" if self.split == "val" else f"swath.protocol.{self.split}"
        return {name: self.digest(), f"{name}.ground": self.ground()}

    def to_json(self) -> str:
        """The protocol as JSON, to see what differs between two."""
        return json.dumps(asdict(self), indent=2)


def check_poolable(protocols: Sequence[Protocol], without: Sequence[tuple[str, ...]]) -> None:
    """Raise DataError where scores were not taken in the same way, of different cells of one store: their counts cannot
    be pooled. `without`: the classes that the second mean of each leaves out."""
    for other, left in zip(protocols[1:], without[1:], strict=True):
        differing = [field.name for field in fields(Protocol) if field.name not in ("cells", "classes")
                     and getattr(other, field.name) != getattr(protocols[0], field.name)]
        differing += ["without"] * (set(left) != set(without[0]))
        if differing:
            raise DataError(f"the scores differ in {', '.join(differing)}, so they cannot be pooled; give runs of one "
                            "store that are scored in one way")


def digest(values: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
