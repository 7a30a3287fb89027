"""How a worker's share of a batch is cut: as many patches at once as the device's memory takes.

The loss does not change by cutting; what batch normalisation sees does.
"""

from collections.abc import Callable
from typing import Literal

import torch

from swath.errors import ConfigError, TrainingError

_PIXELS = 2**20
"""Patch pixels at once where memory cannot be tried out: a process that asks the system for too much is killed."""


class MicroBatch:
    """How a worker's share of a batch goes through the network: in one part, or in several."""

    def __init__(self, wanted: int | Literal["auto"], *, share: int, size: int, least: int) -> None:
        """wanted: the most patches at once; share: those that a worker has of a batch, of size x size pixels; least:
        what the network can be trained on, which goes before what is wanted.

        Raises ConfigError for a share that is less.
        """
        if share < least:
            raise ConfigError(f"train.batch: {share} for each worker, but this network is not trained on fewer than "
                              f"{least} patches at once; enlarge the batch, or take fewer workers")
        self._share, self._most_parts = share, share // least
        most = max(1, _PIXELS // size**2) if wanted == "auto" else wanted
        self.parts = min(-(-share // most), self._most_parts)

    @property
    def sizes(self) -> list[int]:
        """Patches of each part, as equal as can be."""
        return [self._share * (i + 1) // self.parts - self._share * i // self.parts for i in range(self.parts)]

    @property
    def most(self) -> int:
        """Patches of the largest part."""
        return -(-self._share // self.parts)

    def find(self, attempt: Callable[[int], None]) -> None:
        """Take the most that `attempt` does not run out of memory for: the share, or its half, and so on. Raises as
        `halve`."""
        self.parts = 1
        while not fits(lambda: attempt(self.most)):
            self.halve()

    def halve(self) -> None:
        """Take half as many from now on. Raises TrainingError where the network cannot be trained on so few."""
        before = self.most
        self.parts = min(2 * self.parts, self._most_parts)
        if self.most == before:
            raise TrainingError(f"out of memory: the device does not hold {before} of these patches in this network at "
                                "once, and it is not trained on fewer; choose a smaller patches.size or encoder")


def fits(attempt: Callable[[], None]) -> bool:
    """Whether something does not run out of the device's memory. What it had is free again afterwards."""
    try:
        attempt()
        return True
    except torch.OutOfMemoryError:
        pass
    # Only here: the error's traceback has held the tensors of the frames that it came through.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
