"""The configuration of an experiment: a frozen dataclass with one section for each subject."""

from swath.config.augmentation import AugmentConfig
from swath.config.cluster import ClusterConfig, DeviceName
from swath.config.data import LAYOUT, DataConfig
from swath.config.experiment import Config, from_json, from_values, load
from swath.config.loss import LOSSES, ClassWeights, LossConfig
from swath.config.model import ModelConfig
from swath.config.patches import Combine, CombinedScales, PatchesConfig
from swath.config.scoring import ScoreConfig
from swath.config.search import SearchConfig
from swath.config.splits import SplitConfig
from swath.config.tracking import TrackConfig
from swath.config.training import TrainConfig

__all__ = [
    "LAYOUT", "LOSSES", "AugmentConfig", "ClassWeights", "ClusterConfig", "Combine", "CombinedScales", "Config",
    "DataConfig", "DeviceName", "LossConfig", "ModelConfig", "PatchesConfig", "ScoreConfig", "SearchConfig",
    "SplitConfig", "TrackConfig", "TrainConfig", "from_json", "from_values",
    "load",
]
