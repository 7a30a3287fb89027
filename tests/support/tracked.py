"""The runs that a tracking store has of a search."""

from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from swath.tracking import mlflow_store


def runs(workdir: Path) -> dict[str, list[Run]]:
    """All runs, by their role in the search."""
    client = MlflowClient(mlflow_store.prepare(workdir).uri)
    found: dict[str, list[Run]] = {}
    for run in client.search_runs([e.experiment_id for e in client.search_experiments()]):
        found.setdefault(run.data.tags["swath.role"], []).append(run)
    return found


def statuses(workdir: Path) -> dict[str, list[str]]:
    """Their statuses."""
    return {role: [run.info.status for run in some] for role, some in runs(workdir).items()}
