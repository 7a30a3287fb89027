"""The configuration of an experiment: frozen dataclasses, validated at construction.

A recipe is a function that returns a `Config`; the command line overrides its fields (`--patches.size 512`); a file
holds one as JSON. A configuration is pure data: the same configuration gives the same run on every machine.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from swath.config.augmentation import AugmentConfig
from swath.config.cluster import ClusterConfig
from swath.config.data import DataConfig
from swath.config.loss import LossConfig
from swath.config.model import ModelConfig
from swath.config.patches import PatchesConfig
from swath.config.rules import MAY_CHANGE, Section, check
from swath.config.scoring import ScoreConfig
from swath.config.search import SearchConfig
from swath.config.splits import SplitConfig
from swath.config.tracking import TrackConfig
from swath.config.training import TrainConfig
from swath.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """The complete configuration of an experiment."""

    data: DataConfig = field(default_factory=DataConfig, metadata=MAY_CHANGE)
    split: SplitConfig = field(default_factory=SplitConfig)
    patches: PatchesConfig = field(default_factory=PatchesConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig, metadata=MAY_CHANGE)
    search: SearchConfig = field(default_factory=SearchConfig, metadata=MAY_CHANGE)
    track: TrackConfig = field(default_factory=TrackConfig, metadata=MAY_CHANGE)

    def __post_init__(self) -> None:
        share, rest = divmod(self.train.batch, self.cluster.workers)
        check(rest == 0 and share > 0, "train.batch", f"a multiple of cluster.workers ({self.cluster.workers})",
              self.train.batch)
        check(not self.train.freeze or self.model.weights != "none" or bool(self.model.init_from), "train.freeze",
              "0 if the encoder starts from random weights (model.weights none)", self.train.freeze)

    def flat(self) -> dict[str, Any]:
        """All fields by dotted name, as on the command line: {"patches.size": 256, …}."""
        return {f"{part}.{name}": value for part, fields in asdict(self).items() for name, value in fields.items()}

    def fixed_fields(self) -> dict[str, Any]:
        """The fields that must not change within a run, by dotted name.

        Some fields and sections may change when a run is resumed: those that set where it runs, how it is recorded and
        how its batches are cut. They are marked MAY_CHANGE in their declaration.
        """
        return {f"{section.name}.{part.name}": getattr(getattr(self, section.name), part.name)
                for section in fields(self) if not section.metadata.get("may_change")
                for part in fields(getattr(self, section.name)) if not part.metadata.get("may_change")}

    def to_json(self) -> str:
        """The configuration as JSON. `from_json` is the inverse."""
        return json.dumps(asdict(self), indent=2)

    def digest(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def from_json(text: str, origin: str = "configuration") -> Config:
    """Read a configuration back from JSON.

    Raises ConfigError, naming `origin` and each wrong field, when a field is unknown or its value is not allowed.
    """
    try:
        return TypeAdapter(Config).validate_json(text)
    except ValidationError as error:
        raise _refused(error, origin) from None


def from_values(values: Mapping[str, Mapping[str, Any]], origin: str = "configuration") -> Config:
    """A configuration from plain values: {"patches": {"size": 256, …}, …}. Raises ConfigError as `from_json` does."""
    try:
        return TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        raise _refused(error, origin) from None


def _refused(error: ValidationError, origin: str) -> ConfigError:
    lines = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}".lstrip(": ") for e in error.errors()]
    return ConfigError(f"{origin}: {'; '.join(lines)}")


def load(path: Path) -> Config:
    """Read a configuration file (JSON, UTF-8). Raises ConfigError if the file is missing or wrong."""
    try:
        return from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the configuration file cannot be read ({error})") from None
