"""Predicting maps on a Ray cluster: stretches of bands as tasks, so many at once."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from patchstore import PatchstoreError
from swath.config import ClusterConfig
from swath.distributed import connection
from swath.errors import DataError, SwathError
from swath.geometry import Range
from swath.maps import predict_bands
from swath.maps.bands import cut
from swath.maps.predict_bands import PredictionSettings, SceneToMap

_PER_WORKER = 4
"""Tasks for each worker, about: one that is slower than others has fewer of them."""
_RETRIES = 2
"""How often a task is done again whose process was lost: it goes on at the first band that is not there."""


class OnRay:
    """The predictor of a Ray cluster."""

    @contextmanager
    def machines(self, cluster: ClusterConfig) -> Iterator[ClusterConfig]:
        """Be connected to a cluster within the block (`machines`)."""
        with machines(cluster) as found:
            yield found

    def predict(self, model: PredictionSettings, scenes: Sequence[SceneToMap], cluster: ClusterConfig
                ) -> Generator[SceneToMap, None, None]:
        """Predict scenes by tasks (`spread`)."""
        yield from spread(model, scenes, cluster)


@contextmanager
def machines(cluster: ClusterConfig) -> Iterator[ClusterConfig]:
    """Be connected to a cluster within the block; the configuration with the device and the cores of a worker as they
    come out. Raises ConfigError for a cluster that cannot be reached, or has too few GPUs."""
    with connection.connected(cluster.address, connection.own_cores(cluster)):
        gpu = connection.use_gpu(cluster)
        cpus = cluster.cpus or max(1, connection.cores(connection.nodes(), cluster.workers, gpu))
        yield replace(cluster, device="cuda" if gpu else "cpu", cpus=cpus)


def spread(model: PredictionSettings, scenes: Sequence[SceneToMap], cluster: ClusterConfig) -> Iterator[SceneToMap]:
    """Predict what is missing of scenes by `cluster.workers` tasks at once, on the cluster that this process is
    connected to; yields each scene when it is done. `cluster` is as `machines` gives it.

    Model and bands must lie where every node sees them. Raises what `predict_bands.run` does, and DataError where a
    task's process was lost too often.
    """
    todo = {scene.bands.folder: scene.bands.missing() for scene in scenes}
    bands = sum(len(cut(ranges, 1)) for ranges in todo.values())
    most = max(1, -(-bands // (cluster.workers * _PER_WORKER)))
    tasks = deque((scene, rows) for scene in scenes for rows in cut(todo[scene.bands.folder], most))
    left = {scene.bands.folder: len(cut(todo[scene.bands.folder], most)) for scene in scenes}
    yield from (scene for scene in scenes if not left[scene.bands.folder])
    task = _run.options(num_cpus=cluster.cpus, num_gpus=int(cluster.device == "cuda"), max_retries=_RETRIES)
    running: dict[ray.ObjectRef[Any], SceneToMap] = {}
    try:
        while tasks or running:
            while tasks and len(running) < cluster.workers:
                scene, rows = tasks.popleft()
                running[task.remote(model, scene, rows)] = scene
            for reference in ray.wait(list(running))[0]:
                scene = running.pop(reference)
                _check(reference, scene)
                left[scene.bands.folder] -= 1
                if not left[scene.bands.folder]:
                    yield scene
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _check(reference: "ray.ObjectRef[Any]", scene: SceneToMap) -> None:
    """Raise what a task came to, where it is not done."""
    try:
        error: Exception | None = ray.get(reference)
    except RayTaskError:  # of its own making: a bug
        raise
    except RayError as lost:
        raise DataError(f"{scene.source.origin}: the process that predicted it was lost ({str(lost).splitlines()[0]}); "
                        "if memory ran out, use fewer workers; then predict again with --resume") from None
    if error is not None:
        raise error


@lru_cache(maxsize=1)
def _predictor(model: PredictionSettings) -> predict_bands.Predictor:
    return predict_bands.load(model)


@ray.remote
def _run(model: PredictionSettings, scene: SceneToMap, rows: Range) -> Exception | None:
    """Predict rows of a scene; what a user can mend comes back as a value."""
    try:
        for _ in predict_bands.run(_predictor(model), [(scene, rows)]):
            pass
    except (SwathError, PatchstoreError) as error:
        return error
    return None
