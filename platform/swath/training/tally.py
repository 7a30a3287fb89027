"""What was trained since the last report: running totals, and a rank's list of the patches that it was given."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swath.loading.loader import Batch, Costs
from swath.names import TRAIN_LOSS, TRAIN_MIOU
from swath.scoring import metrics
from swath.training.context import Context
from swath.training.ranks import sum_over_ranks


class Samples:
    """What a rank is trained on: a line of JSON a step in FOLDER/rank-R.jsonl, or nothing where no folder is named."""

    def __init__(self, folder: str, rank: int) -> None:
        self._path = Path(folder, f"rank-{rank}.jsonl") if folder else None
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def note(self, batch: Batch, loss: float) -> None:
        """Write a completed step's line, with this rank's share of its loss. A run that goes on adds to the file: the
        last line of a step holds."""
        if self._path:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": batch.index, "ids": batch.ids.tolist(), "loss": loss}) + "\n")


class Tally:
    """What was trained since the last report, and what loading it has cost."""

    def __init__(self, context: Context, *, classes: int, costs: Costs, batch: int, step_megapixels: float) -> None:
        """batch: patches of a step, and `step_megapixels` their pixels, over all workers."""
        self._context, self._classes, self._costs = context, classes, costs
        self._batch, self._step_megapixels = batch, step_megapixels
        self.clear()

    def clear(self) -> None:
        """Start the totals and the clock again."""
        self.steps, self.loss, self._began = 0, 0.0, time.perf_counter()
        self.counts_KK = np.zeros((self._classes, self._classes), np.int64)
        self._before = replace(self._costs)
        self._earlier: torch.Tensor | float = 0.0

    def add(self, loss: float, counts_KK: NDArray[np.int64]) -> None:
        """Take one step's results."""
        self.steps, self.loss, self.counts_KK = self.steps + 1, self.loss + loss, self.counts_KK + counts_KK
        self.seconds = time.perf_counter() - self._began

    def save(self) -> dict[str, Any]:
        """What `restore` takes, on any number of ranks; every rank calls it."""
        return {"steps": self.steps, "device_seconds": self.seconds * self._context.world_size, "sums": self._sums()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on, after `clear`, from what was saved in the middle of an interval."""
        self.steps, self._earlier = saved["steps"], saved["sums"].cpu()
        self.seconds = saved["device_seconds"] / self._context.world_size
        self._began -= self.seconds

    def numbers(self) -> dict[str, float]:
        """The metrics of training, over all ranks."""
        sums = self._sums().numpy()
        counts_KK = sums[3:].reshape(self.counts_KK.shape).astype(np.int64)
        pixels = self.steps * self._step_megapixels
        return {TRAIN_LOSS: float(sums[0]) / self.steps,
                TRAIN_MIOU: metrics.mean_iou(counts_KK, counts_KK.sum(axis=1) > 0),
                "speed/megapixels_per_s": pixels / self.seconds,
                "speed/patches_per_s": self.steps * self._batch / self.seconds,
                "speed/waiting_share": float(sums[1]) / self._context.world_size / self.seconds,
                "speed/read_megabytes": float(sums[2]) / 1e6}

    def _sums(self) -> torch.Tensor:
        """Sums over all ranks, float64 (3 + K * K): the loss, seconds waited for batches, bytes read, counts."""
        waited_s = self._costs.waiting_s - self._before.waiting_s
        read = self._costs.bytes_read - self._before.bytes_read
        mine = torch.tensor([self.loss, waited_s, read, *self.counts_KK.ravel()], dtype=torch.float64)
        return sum_over_ranks(self._context, mine) + self._earlier
