"""A connection to a Ray cluster: a given one, or one of its own on this machine for as long as it is needed."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

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
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = {}
    if target == "local":
        # Ray turns token authentication on by itself, as it should; that needs no warning.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        own = {"num_cpus": cpus or None, "include_dashboard": True, "dashboard_host": "127.0.0.1"}
    try:
        ray.init(address=target, logging_level=logging.WARNING, **own)
    except (ConnectionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cluster.address: no Ray cluster answers at {target} ({reason})") from None
    try:
        yield
    finally:
        ray.shutdown()
