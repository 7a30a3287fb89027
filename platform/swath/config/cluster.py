"""Section `cluster` of a configuration: the machines and processes of a run."""

from dataclasses import dataclass
from typing import Literal

from swath.config.rules import Section, check

DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(Section):
    """The machines that one run may use."""

    workers: int = 1
    """Number of training processes. More than one, or any with `cluster.address`, run under Ray Train; a single one
    runs in this process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of each worker. `auto` takes a GPU if there is one, else the CPU."""
    cpus: int = 0
    """CPU cores of each worker. 0 divides the cores of the machine or cluster among all workers that run at the same
    time."""
    address: str = ""
    """Address of the Ray cluster. Empty: use $RAY_ADDRESS; if that is not set, start a cluster on this machine."""
    restarts: int = 2
    """Maximum number of times that a run continues from its checkpoint after it loses a worker or a worker fails."""
    wait_s: float = 60.0
    """After losing a worker, wait this many seconds for enough free resources for all workers; then continue with
    the largest number of workers that fits and divides train.batch."""
    readers: int = 2
    """Number of reader processes for each worker. They read and augment patches ahead of training. 0: no reader
    processes; the worker does this work itself."""
    stuck_s: float = 300.0
    """Reader timeout in seconds. If no batch arrives for this long, a reader is assumed to hang and the run ends
    with an error. With readers 0 there is no time limit for reading."""

    def __post_init__(self) -> None:
        check(self.workers >= 1, "cluster.workers", "1 or more", self.workers)
        for name in ("cpus", "restarts", "readers"):
            check(getattr(self, name) >= 0, f"cluster.{name}", "0 or more", getattr(self, name))
        check(0 <= self.wait_s <= 1e6, "cluster.wait_s", "from 0 to 1,000,000 seconds", self.wait_s)
        check(0 < self.stuck_s <= 1e6, "cluster.stuck_s", "above 0 and at most 1,000,000 seconds", self.stuck_s)
