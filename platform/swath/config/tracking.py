"""The records' section of a configuration."""

from dataclasses import dataclass

from swath.config.rules import Section


@dataclass(frozen=True, kw_only=True)
class TrackConfig(Section):
    """Where runs are recorded."""

    experiment: str = "swath"
    """MLflow experiment."""
    name: str = ""
    """Name of the run; empty: from the recipe's architecture, encoder and patches."""
    uri: str = ""
    """MLflow tracking store; empty: $MLFLOW_TRACKING_URI, or an SQLite file in the working directory."""
    samples: str = ""
    """Folder in which each worker writes what it was trained on: a line of JSON a step, with its patches' numbers in
    the plan and its share of the loss; empty: not written."""
