"""Where work runs: in this process, or on a Ray cluster. Ray is imported only where it is chosen."""

from collections.abc import Mapping
from pathlib import Path

from swath.config import ClusterConfig, Config
from swath.experiments import experiment
from swath.experiments.experiment import Fit, Outcome, fit_in_process
from swath.maps import apply
from swath.maps.apply import IN_PROCESS, Maps, Predictor, Request


def train(config: Config, workdir: Path, *, tags: Mapping[str, str] | None = None, run_id: str = "",
          on_ray: bool = False) -> Outcome:
    """Train, score and record one model where its configuration says (`experiment.train`, `trainer`)."""
    return experiment.train(config, workdir, tags=tags, run_id=run_id, fit=trainer(config, on_ray=on_ray))


def predict(request: Request) -> Maps:
    """Map scenes where the request's cluster says (`apply.predict`, `predictor`)."""
    return apply.predict(request, predictor(request.cluster))


def needs_ray(cluster: ClusterConfig) -> bool:
    """Whether a configuration asks for several workers or for a cluster."""
    return cluster.workers > 1 or bool(cluster.address)


def trainer(config: Config, *, on_ray: bool = False) -> Fit:
    """How a configuration is trained: in this process for one worker, by Ray Train for several, for a named cluster,
    or if `on_ray`."""
    if not (on_ray or needs_ray(config.cluster)):
        return fit_in_process
    from swath.distributed import training

    return training.fit


def predictor(cluster: ClusterConfig) -> Predictor:
    """How maps are predicted: in this process for one worker, as Ray tasks for several or for a named cluster."""
    if not needs_ray(cluster):
        return IN_PROCESS
    from swath.distributed import maps

    return maps.OnRay()
