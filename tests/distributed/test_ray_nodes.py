"""Several nodes on one machine: a run goes on after one is lost, and before one that was warned is gone."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from support.configs import calm
from support.curves import assert_alike, curves
from swath.config import ClusterConfig
from swath.distributed import connection, runners
from swath.distributed.connection import connected
from swath.experiments import experiment
from swath.tracking import mlflow_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A cluster whose head, with this process, has no room for workers; one CPU core a node."""
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    cluster = Cluster(initialize_head=True, head_node_args={
        "num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1", "object_store_memory": 10**8})
    try:
        with connected(cluster.address):
            yield cluster
    finally:
        cluster.shutdown()


class Training(threading.Thread):
    """A run of two workers; nodes come and go in the main thread alone."""

    def __init__(self, store_uri: str, workdir: Path, **cluster: object) -> None:
        super().__init__(daemon=True)
        config = calm(store_uri)
        self._config = replace(config, cluster=ClusterConfig(
            workers=2, cpus=1, device="cpu", readers=0, **cluster))  # type: ignore[arg-type]
        self._workdir = workdir
        self.outcome: experiment.Outcome | None = None

    def run(self) -> None:
        self.outcome = runners.train(self._config, self._workdir)

    def until_saved(self) -> None:
        """Wait until the run has saved twice."""
        while len(list(self._workdir.glob("checkpoints/*/kpx*/manifest.json"))) < 2:
            assert self.is_alive()
            time.sleep(0.05)

    def record(self) -> mlflow_store.RunRecord:
        assert self.outcome is not None
        return mlflow_store.find(self.outcome.location.uri, self.outcome.run_id)


def two_nodes(cluster: Cluster) -> None:
    """Have two worker nodes."""
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(num_cpus=1, object_store_memory=10**8)
    cluster.wait_for_nodes()
    while len([cores for cores, _ in connection.nodes() if cores]) != 2:  # the last test's may not be gone yet
        time.sleep(0.2)


def test_a_run_goes_on_with_the_rest_after_a_node_is_lost(nodes: Cluster, alone: experiment.Outcome, store_uri: str,
                                                          tmp_path: Path) -> None:
    two_nodes(nodes)
    training = Training(store_uri, tmp_path, restarts=1, wait_s=1.0)
    training.start()
    training.until_saved()
    nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
    training.join()
    record = training.record()
    assert (record.status, record.metrics["workers"], record.metrics["restarts"]) == ("FINISHED", 1, 1)
    assert training.outcome is not None
    assert_alike(curves(training.outcome), curves(alone))
    uri = training.outcome.location.uri
    assert {workers for _, workers in mlflow_store.metric_history(uri, record.run_id, "workers")} == {1, 2}


def test_a_run_saves_before_its_node_goes_which_is_no_failure(nodes: Cluster, alone: experiment.Outcome, store_uri: str,
                                                              tmp_path: Path) -> None:
    two_nodes(nodes)
    training = Training(store_uri, tmp_path, restarts=0, wait_s=1.0)
    training.start()
    training.until_saved()
    warned = next(iter(nodes.worker_nodes))
    accepted, _ = ray._private.worker.global_worker.gcs_client.drain_node(
        warned.node_id, 2, "the spot node is reclaimed", int(time.time() * 1000) + 120_000)  # 2: a preemption
    assert accepted
    training.join()
    nodes.remove_node(warned)
    record = training.record()
    assert (record.status, record.metrics["workers"]) == ("FINISHED", 1)
    assert record.metrics["repeated_megapixels"] == 0
    assert training.outcome is not None
    assert_alike(curves(training.outcome), curves(alone))
