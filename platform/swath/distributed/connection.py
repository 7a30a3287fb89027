"""A connection to Ray: the cluster that an address names, or one of our own on this machine; and what it has."""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from swath.config import ClusterConfig
from swath.errors import ConfigError


@contextmanager
def connected(address: str = "", cpus: int = 0) -> Iterator[None]:
    """Be connected to a Ray cluster within the block.

    The cluster at `address`, else at $RAY_ADDRESS (which `ray job submit` sets), else a local one with `cpus` cores (0:
    this machine's), which ends with the block. Inside a block that is connected already, nothing happens.

    Raises ConfigError when the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    # Without its compiled bytecode every Ray process compiles torch and Ray anew: three times slower to start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    target = elsewhere(address) or "local"
    own: dict[str, Any] = {}
    if target == "local":
        # Ray turns token authentication on by itself, as it should; that needs no warning.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        own = {"num_cpus": cpus or None, "include_dashboard": True, "dashboard_host": "127.0.0.1"}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=target, logging_level=logging.WARNING, **own)
    except (ConnectionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cluster.address: no Ray cluster answers at {target} ({reason})") from None
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own drains for half a minute, and aborts after three seconds
    try:
        yield
    finally:
        ray.shutdown()


def elsewhere(address: str) -> str:
    """The address of the cluster to use; empty for one of our own on this machine."""
    return address or os.environ.get("RAY_ADDRESS", "")


def use_gpu(cluster: ClusterConfig) -> bool:
    """Whether workers take a GPU each.

    A cluster elsewhere that has too few for `cluster.device cuda` may grow; one of our own cannot. Raises ConfigError
    when there are GPUs, or they are asked for, and too few.
    """
    gpus = sum(gpus for _, gpus in nodes())
    if cluster.device == "cpu" or (cluster.device == "auto" and gpus == 0):
        return False
    if gpus < cluster.workers and not (cluster.device == "cuda" and elsewhere(cluster.address)):
        raise ConfigError(f"cluster.workers is {cluster.workers}, but the Ray cluster has {gpus} GPUs; use at most as "
                          "many workers, or --cluster.device cpu; --cluster.device cuda waits for an autoscaled one")
    return True


def nodes() -> list[tuple[int, int]]:
    """The CPU cores and the GPUs of each node, those that are to go left out."""
    leaving = draining()
    alive = [node["Resources"] for node in ray.nodes()  # type: ignore[no-untyped-call]
             if node["Alive"] and node["NodeID"] not in leaving]
    return [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in alive]


def draining() -> set[str]:
    """Ids of the nodes that are to go: idle ones of a cluster that shrinks, and spot nodes that were warned.

    Ray says so nowhere in public; this is what Ray Train's own watcher asks (ray 2.60, train/v2 preemption.py).
    """
    return set(ray._private.state.state.get_draining_nodes())


def room(nodes: Sequence[tuple[int, int]], cpus: int, gpu: bool) -> int:
    """How many processes of so many CPU cores each, and if `gpu` a GPU, nodes of such cores and GPUs have room for."""
    return sum(min(cores // cpus, gpus) if gpu else cores // cpus for cores, gpus in nodes)


def cores(nodes: Sequence[tuple[int, int]], processes: int, gpu: bool) -> int:
    """The most CPU cores that so many processes can have each on nodes of such cores and GPUs, none being spread over
    two nodes; if `gpu`, with a GPU each. 0: there is no room for them."""
    most = max((cpus for cpus, _ in nodes), default=0)
    return next((each for each in range(most, 0, -1) if room(nodes, each, gpu) >= processes), 0)


def own_cores(cluster: ClusterConfig) -> int:
    """The cores of a cluster of our own: this machine's, or as many as its workers ask for."""
    return max(os.cpu_count() or 1, cluster.workers * max(1, cluster.cpus))
