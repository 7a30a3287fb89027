"""The state of a run as a checkpoint holds it: a format number and typed fields, validated when they are read.

    format 1    written before there was a number; has `manner` in place of `numerics`
    format 2    has `format`
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from swath.errors import CheckpointError

FORMAT = 2
_TYPES: dict[str, tuple[type, ...]] = {
    "net": (dict,), "average": (dict, type(None)), "optimiser": (dict,), "scaler": (dict,), "step": (int,),
    "megapixels": (float, int), "device_seconds": (float, int), "history": (list,), "tally": (dict, type(None)),
    "numerics": (dict,), "trained": (dict,), "counts": (Tensor, type(None))}


@dataclass(frozen=True, kw_only=True, eq=False)
class RunState:
    """All that a run resumes from. A state of weights alone can be applied, but no run resumes from it."""

    net: dict[str, Tensor]
    """Weights and buffers."""
    average: dict[str, Tensor] | None = None
    """Those of the moving average, where the run keeps one."""
    optimiser: dict[str, Any] = field(default_factory=dict)
    """Its state; empty: the checkpoint has weights alone."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """State of the loss scaler; empty where the arithmetic is not fp16."""
    step: int = 0
    megapixels: float = 0.0
    device_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    tally: dict[str, Any] | None = None
    numerics: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, Tensor] = field(default_factory=dict)
    """The cells that are trained on, by their scene's fingerprint: bool (cell row, cell col)."""
    counts: Tensor | None = None
    """Counts of the final score, int64 (R, K, K + 4), once there are any."""

    @property
    def best(self) -> dict[str, Tensor]:
        """The weights to apply: the average's, where there is one."""
        return self.average or self.net

    def saved(self) -> dict[str, Any]:
        """The state as tensors and plain values, with its format."""
        return {"format": FORMAT, **{one.name: getattr(self, one.name) for one in fields(self)}}

    @classmethod
    def read(cls, saved: Mapping[str, Any], name: str) -> "RunState":
        """The state that was saved in a file of this name.

        Raises CheckpointError for a newer format, and for fields that are missing, unknown or of another type.
        """
        values = dict(saved)
        version = values.pop("format", 1)
        if not isinstance(version, int) or version > FORMAT:
            raise CheckpointError(f"{name}: written in format {version}, this swath reads up to {FORMAT}; update it")
        if "manner" in values:  # format 1
            values["numerics"] = values.pop("manner")
        wrong = [key for key, value in values.items() if key not in _TYPES or not isinstance(value, _TYPES[key])]
        if wrong or "net" not in values:
            raise CheckpointError(f"{name}: {', '.join(wrong) or 'net'} missing or not as swath writes it; was it "
                                  "written by another version?")
        return cls(**values)
