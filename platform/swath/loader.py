"""The loader: batches of a plan, read and augmented ahead in threads.

Reading (tensorstore) and augmentation (OpenCV) release Python's lock, so threads suffice, and there is no process to
orphan and nothing to pickle. With no reader thread everything happens in the calling one, as a debugger likes it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from patchstore import Store, Window
from swath import order
from swath.augment import Augment
from swath.patches import PatchPlan


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's share of a global batch. N patches, S scales of each, B bands."""

    images_NSBHW: torch.Tensor
    """The store's dtype; on the CPU."""
    labels_NHW: torch.Tensor
    """uint8 class indices and the ignore index; on the CPU."""
    windows: Sequence[Window]
    """Where each patch lies."""

    def parts(self, most: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images and labels in pieces of at most `most` patches, as equal as can be."""
        pieces = -(-len(self.windows) // most)
        yield from zip(self.images_NSBHW.tensor_split(pieces), self.labels_NHW.tensor_split(pieces), strict=True)


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Reads the batches of a plan for one rank."""

    store: Store
    plan: PatchPlan
    batch: int
    """Patches in a global batch."""
    seed: int
    rank: int
    world_size: int
    augment: Augment | None
    """None: patches as they are stored."""
    readers: int
    """Threads that read ahead."""

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """This rank's share of the global batches `start` to `stop` - 1, in order."""
        if self.readers == 0:
            yield from map(self.load, range(start, stop))
            return
        pool = ThreadPoolExecutor(self.readers, thread_name_prefix="swath-reader")
        ahead: deque[Future[Batch]] = deque()
        try:
            for index in range(start, stop):
                ahead.append(pool.submit(self.load, index))
                if len(ahead) > self.readers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:  # also when the consumer stops early: what is not begun is not read
            pool.shutdown(wait=True, cancel_futures=True)

    def load(self, index: int) -> Batch:
        """This rank's share of one global batch."""
        ids = order.batch(self.plan, self.seed, 0, index, self.batch)
        mine = order.share(ids, self.rank, self.world_size)
        windows = self.plan.windows(mine)
        images_NBHW, labels_NHW = self.store.read(windows, self.plan.size)
        if self.augment:
            images_NBHW, labels_NHW = self._vary(images_NBHW, labels_NHW, index)
        return Batch(images_NSBHW=torch.from_numpy(images_NBHW)[:, None], labels_NHW=torch.from_numpy(labels_NHW),
                     windows=windows)

    def _vary(self, images_NBHW: NDArray[np.generic], labels_NHW: NDArray[np.uint8], index: int
              ) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
        """Augment each patch from the seed of its place in the run."""
        assert self.augment is not None
        place = index * self.batch + self.rank * len(images_NBHW)
        images, labels = np.empty_like(images_NBHW), np.empty_like(labels_NHW)
        for i in range(len(images)):
            seed = int(np.random.SeedSequence((self.seed, place + i)).generate_state(1)[0])
            images[i], labels[i] = self.augment(images_NBHW[i], labels_NHW[i], seed)
        return images, labels
