"""The loader: batches of a plan for one rank. Reader processes read and augment patches ahead, then batches are copied
to the device.

The content of a batch follows from the plan, the seed and the batch's number (`patches.ordering`). The augmentation of
a patch follows from its position in the run. Neither depends on ranks, readers or restarts. Without reader processes,
all work happens in the calling process, which helps debugging; reads are still started ahead.
"""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from patchstore import Store, Window
from swath.loading import reader
from swath.loading.augment import Augment
from swath.loading.reader import Layout, Setup, Task
from swath.loading.ring import SLOTS, Ring
from swath.patches import ordering
from swath.patches.planning import PatchPlan

CPU = torch.device("cpu")
Arrays = tuple[NDArray[Any], NDArray[np.uint8]]
"""images_NSBHW, labels_NHW."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's share of a global batch. N patches, S scales of each, B bands. The loader owns the tensors and
    overwrites them when the next batch is requested."""

    index: int
    """Number of the global batch in the run."""
    images_NSBHW: torch.Tensor
    """Images in the store's dtype, on the loader's device."""
    labels_NHW: torch.Tensor
    """Class indices and the ignore index, uint8, on the loader's device."""
    windows: Sequence[Window]
    """Window of each patch; for concentric patches the finest one, to which the labels belong."""
    ids: NDArray[np.int64]
    """Id of each patch in the plan."""

    def parts(self, sizes: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images and labels in parts of these sizes, which sum to the batch."""
        yield from zip(torch.split(self.images_NSBHW, sizes), torch.split(self.labels_NHW, sizes), strict=True)


@dataclass(kw_only=True)
class Costs:
    """Cost of loading for this rank so far."""

    waiting_s: float = 0.0
    """Seconds in which the caller waited for a batch, including the computation of orders and the start of readers."""
    bytes_read: int = 0
    """Bytes read from storage, compressed as they are stored. Without readers, all bytes that this process has read."""


class _Filler(Protocol):
    """Interface of the two sources of filled batches: `Ring` and `_Here`."""

    def ask(self, task: Task) -> None:
        """Request a batch."""

    def take(self, index: int) -> Arrays:
        """Wait for a batch."""

    @property
    def bytes_read(self) -> int:
        """Bytes read from storage."""

    def close(self) -> None:
        """Release all resources."""


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Reads the batches of a plan for one rank."""

    store: Store
    plan: PatchPlan
    batch: int
    """Number of patches in a global batch."""
    seed: int
    rank: int
    world_size: int
    augment: Augment | None
    """The augmentation; None leaves patches as they are stored."""
    readers: int
    """Number of reader processes; 0: none."""
    device: torch.device = CPU
    """Device of the batches."""
    stuck_s: float = 300.0
    """Seconds without a batch after which a reader is assumed to hang."""
    costs: Costs = field(default_factory=Costs)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """This rank's share of the global batches `start` to `stop` - 1, in order.

        Raises ReadError for damaged data, and LoaderError if a reader has ended or hangs.
        """
        if start >= stop:
            return
        began = time.perf_counter()
        filler = self._filler()
        self.costs.waiting_s += time.perf_counter() - began
        with closing(filler):
            filled = self._filled(filler, start, stop)
            if self.device.type == "cuda":
                with _pinned(filler):
                    yield from self._sent(filled)
            else:
                for images_NSBHW, labels_NHW, task, ids in filled:
                    yield Batch(index=task.index, images_NSBHW=torch.from_numpy(images_NSBHW),
                                labels_NHW=torch.from_numpy(labels_NHW), windows=task.windows, ids=ids)

    @property
    def share(self) -> int:
        """Number of patches of a batch for this rank."""
        return self.batch // self.world_size

    def task(self, index: int) -> tuple[Task, NDArray[np.int64]]:
        """The task of one batch for this rank's readers, and the ids of its patches."""
        ids = ordering.share(ordering.batch(self.plan, self.seed, 0, index, self.batch), self.rank, self.world_size)
        return Task(index=index, slot=index % SLOTS, place=index * self.batch + self.rank * self.share,
                    views=tuple(self.plan.views(ids)), own=self.plan.own(ids)), ids

    def _filled(self, filler: _Filler, start: int, stop: int
                ) -> Iterator[tuple[NDArray[Any], NDArray[np.uint8], Task, NDArray[np.int64]]]:
        """Batches in memory of the filler. Each one stays valid until the next is requested."""
        asked: dict[int, tuple[Task, NDArray[np.int64]]] = {}
        before, following = self.costs.bytes_read, start
        for index in range(start, stop):
            began = time.perf_counter()
            while following < min(stop, index + SLOTS):
                asked[following] = self.task(following)
                filler.ask(asked[following][0])
                following += 1
            arrays = filler.take(index)
            self.costs.waiting_s += time.perf_counter() - began
            self.costs.bytes_read = before + filler.bytes_read
            yield *arrays, *asked.pop(index)

    def _filler(self) -> _Filler:
        readers = min(self.readers, self.share)
        layout = Layout(slots=SLOTS, patches=self.share, scales=self.plan.scales_per_sample, bands=self.store.bands,
                        size=self.plan.size, dtype=self.store.dtype.str, readers=max(1, readers))
        cache = ordering.cache_bytes(self.plan, self.batch, self.world_size) // layout.readers
        setup = Setup(store=self.store.with_cache(cache), fingerprint=self.store.fingerprint, augment=self.augment,
                      seed=self.seed, layout=layout, reader=0)
        return Ring(setup, self.stuck_s) if readers else _Here(setup)

    def _sent(self, filled: Iterator[tuple[NDArray[Any], NDArray[np.uint8], Task, NDArray[np.int64]]]
              ) -> Iterator[Batch]:
        """Batches on a GPU. The next batch is copied on its own stream while the caller uses the current one."""
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        to_device = partial(torch.Tensor.to, device=self.device, non_blocking=True)
        ahead: tuple[Batch, torch.cuda.Event] | None = None
        try:
            for images_NSBHW, labels_NHW, task, ids in filled:
                with torch.cuda.stream(stream):
                    images, labels = to_device(torch.from_numpy(images_NSBHW)), to_device(torch.from_numpy(labels_NHW))
                    arrived = stream.record_event()
                if ahead is not None:
                    yield self._received(*ahead)
                ahead = Batch(index=task.index, images_NSBHW=images, labels_NHW=labels, windows=task.windows,
                              ids=ids), arrived
                arrived.synchronize()  # before its slot of the ring is filled anew; the caller's step has taken longer
            if ahead is not None:
                yield self._received(*ahead)
        finally:
            stream.synchronize()  # nothing is copied from memory that is about to be let go

    def _received(self, batch: Batch, arrived: "torch.cuda.Event") -> Batch:
        """A batch that was copied on another stream, ready for the current stream."""
        current = torch.cuda.current_stream(self.device)
        current.wait_event(arrived)
        for tensor in (batch.images_NSBHW, batch.labels_NHW):
            tensor.record_stream(current)  # its memory is not given to another before this stream is done with it
        return batch


class _Here:
    """Fills batches in the calling process. Requested patches are read ahead by TensorStore's own threads."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._begun: dict[int, tuple[Arrays, Any, Any]] = {}
        self._before = reader.bytes_read()

    def ask(self, task: Task) -> None:
        """See `Ring`."""
        layout = self._setup.layout
        images_NSBHW = np.empty((layout.patches, layout.scales, layout.bands, layout.size, layout.size), layout.dtype)
        labels_NHW = np.empty((layout.patches, layout.size, layout.size), np.uint8)
        self._begun[task.index] = (images_NSBHW, labels_NHW), *reader.begin(
            self._setup.store, task, images_NSBHW, labels_NHW, self._setup.augment, self._setup.seed)

    def take(self, index: int) -> Arrays:
        """See `Ring`."""
        arrays, wait, vary = self._begun.pop(index)
        wait()
        vary()
        return arrays

    @property
    def bytes_read(self) -> int:
        """See `Ring`; counts all reads of this process."""
        return reader.bytes_read() - self._before

    def close(self) -> None:
        """Nothing to release."""


@contextmanager
def _pinned(filler: _Filler) -> Iterator[None]:
    """Lock a ring's pages in memory within the block. A GPU copies beside the calling thread only from locked pages."""
    if not isinstance(filler, Ring):
        yield
        return
    cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    address = filler.images.ctypes.data
    try:
        torch.cuda.check_error(cudart.cudaHostRegister(address, filler.layout.total_bytes, 0))
    except torch.cuda.CudaError as error:  # a container's limit of locked memory
        warnings.warn(f"{filler.layout.total_bytes >> 20} MB cannot be locked in memory ({error}): batches cross to "
                      "the GPU in the training's own time; allow more (ulimit -l)", stacklevel=2)
        yield
        return
    try:
        yield
    finally:
        torch.cuda.check_error(cudart.cudaHostUnregister(address))
