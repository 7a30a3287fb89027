"""The machines' section of a configuration."""

from dataclasses import dataclass
from typing import Literal

from swath.config.rules import Section, check

DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(Section):
    """The machines: what one run may use."""

    workers: int = 1
    """Processes that train together. By Ray Train, but for a single one without an address: that is this process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of a worker; auto takes a GPU where there is one."""
    cpus: int = 0
    """CPU cores of a worker; 0: those of the machine or the cluster, divided among all workers that run at once."""
    address: str = ""
    """Ray cluster to use; empty: $RAY_ADDRESS, or a cluster of its own on this machine."""
    restarts: int = 2
    """How often a run goes on from its checkpoint after a worker was lost or failed."""
    wait_s: float = 60.0
    """Seconds that a run which has lost a worker or a node waits for room for all of its workers, before it goes on
    with fewer: the most that there is room for and that divide train.batch."""
    readers: int = 2
    """Processes that read and augment patches ahead, for each worker; 0: none, all of it in the worker itself."""
    stuck_s: float = 300.0
    """Seconds without a batch after which a reader is taken to hang, and the run ends with an error (not with readers
    0: there reading has no limit)."""

    def __post_init__(self) -> None:
        check(self.workers >= 1, "cluster.workers", "1 or more", self.workers)
        for name in ("cpus", "restarts", "readers"):
            check(getattr(self, name) >= 0, f"cluster.{name}", "0 or more", getattr(self, name))
        check(0 <= self.wait_s <= 1e6, "cluster.wait_s", "0 to a million", self.wait_s)
        check(0 < self.stuck_s <= 1e6, "cluster.stuck_s", "above 0, to a million", self.stuck_s)
