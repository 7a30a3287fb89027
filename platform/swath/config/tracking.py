"""Section `track` of a configuration: where runs are recorded."""

from dataclasses import dataclass

from swath.config.rules import Section


@dataclass(frozen=True, kw_only=True)
class TrackConfig(Section):
    """Where runs are recorded."""

    experiment: str = "swath"
    """Name of the MLflow experiment."""
    name: str = ""
    """Name of the run. Empty: built from the architecture, the encoder and the patches of the configuration."""
    uri: str = ""
    """MLflow tracking URI. Empty: use $MLFLOW_TRACKING_URI; if that is not set, an SQLite file in the working
    directory."""
    samples: str = ""
    """Folder for training logs. Each worker writes one line of JSON for each step: the ids of its patches in the
    plan and its share of the loss. Empty: nothing is written."""
