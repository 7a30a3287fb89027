"""Reading and augmenting the patches of a batch, and the reader process that does so for its share of each batch.

    main() with PIPE MEMORY LIFELINE PARENT as arguments: three open file descriptors and a process id, as
    `swath.loading.ring` starts it

This module imports no torch, which would cost each process one second and half a gigabyte.
"""

import mmap
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from patchstore import PatchstoreError, Store, StoreError, Window
from swath.loading.augment import Augment

if TYPE_CHECKING:  # a process that imports the plans' makers takes twice the memory
    from swath.patches.planning import OwnCells, PatchPlan

STARTING, IDLE, READING, VARYING = range(4)
"""Activities of a reader, as it records them beside the batches."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One rank's part of a global batch, or a reader's share of it."""

    index: int
    """Number of the global batch in the run."""
    slot: int
    """Slot of the ring that the batch is written to."""
    place: int
    """Position of its first patch in the run. The augmentation of a patch follows from its position."""
    views: tuple[tuple[Window, ...], ...]
    """All windows of each patch: its own window, then those of the other scales around the same centre."""
    own: "tuple[OwnCells | None, ...]"
    """For each patch the mask of the labels that count; None: all labels count."""

    @property
    def windows(self) -> tuple[Window, ...]:
        """The own window of each patch."""
        return tuple(views[0] for views in self.views)


@dataclass(frozen=True, kw_only=True)
class Done:
    """Message of a reader that has filled its share of a batch."""

    index: int
    bytes_read: int
    """Bytes that it has read from storage since it started."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of batches in the memory that readers and loader share. N patches in a batch, S scales of each, B bands.
    """

    slots: int
    patches: int
    scales: int
    bands: int
    size: int
    dtype: str
    readers: int

    @property
    def image_bytes(self) -> int:
        """Bytes of the images of a batch."""
        return self.patches * self.scales * self.bands * self.size**2 * np.dtype(self.dtype).itemsize

    @property
    def label_bytes(self) -> int:
        """Bytes of the labels of a batch."""
        return self.patches * self.size**2

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole memory: images of all slots, labels of all slots, and a note of each reader."""
        return self.slots * (self.image_bytes + self.label_bytes) + self.readers * 16 + 16

    def arrays(self, memory: mmap.mmap) -> tuple[NDArray[np.generic], NDArray[np.uint8], NDArray[np.int64]]:
        """Views of the memory: images (slots, N, S, B, size, size), labels (slots, N, size, size) and notes (readers,
        2): activity, and number of the batch."""
        ends = np.cumsum([self.slots * self.image_bytes, self.slots * self.label_bytes])
        images = np.frombuffer(memory, self.dtype, self.slots * self.image_bytes // np.dtype(self.dtype).itemsize)
        labels = np.frombuffer(memory, np.uint8, self.slots * self.label_bytes, int(ends[0]))
        notes = np.frombuffer(memory, np.int64, self.readers * 2, -(-int(ends[1]) // 8) * 8)
        patches, patch = (self.slots, self.patches), (self.size, self.size)
        return (images.reshape(*patches, self.scales, self.bands, *patch), labels.reshape(*patches, *patch),
                notes.reshape(-1, 2))

    def share(self, reader: int) -> slice:
        """The positions of a batch that a reader fills. They are the same in every batch, so a reader stays on its own
        lanes."""
        return slice(reader * self.patches // self.readers, (reader + 1) * self.patches // self.readers)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Settings that a reader receives once, at its start."""

    store: Store
    """The store. It is pickled as its URI."""
    fingerprint: str
    """Fingerprint of the store when the run opened it."""
    augment: Augment | None
    seed: int
    layout: Layout
    reader: int
    """Number of the reader."""


def begin(store: Store, task: Task, images_NSBHW: NDArray[np.generic], labels_NHW: NDArray[np.uint8],
          augment: Augment | None, seed: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Start to read the patches of a task into arrays of its length. Labels are those of each patch's own window.

    Returns a function that waits for the reads, and one that then augments the patches in place.
    """
    # All of the first scale, of which labels are read, then all of the second: the order in which they are asked for.
    wait = store.begin([window for windows in zip(*task.views, strict=True) for window in windows],
                       [image_BHW for images_NBHW in images_NSBHW.swapaxes(0, 1) for image_BHW in images_NBHW],
                       labels_NHW)

    def vary() -> None:
        for own, labels_HW in zip(task.own, labels_NHW, strict=True):
            if own is not None:
                own.keep(labels_HW, store.ignore)
        if augment is not None:
            places = range(task.place, task.place + len(labels_NHW))
            augment.vary(images_NSBHW, labels_NHW, [seed_of(seed, place) for place in places])

    return wait, vary


def read(store: Store, plan: "PatchPlan", ids: Sequence[int] | NDArray[np.int64]
         ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Read patches of a plan without augmentation: images (N, S, B, size, size) and labels (N, size, size).

    Labels in cells outside the plan's split are ignored. Raises like `Store.read`.
    """
    task = Task(index=0, slot=0, place=0, views=tuple(plan.views(ids)), own=plan.own(ids))
    images_NSBHW = np.empty((len(ids), plan.scales_per_sample, store.bands, plan.size, plan.size), store.dtype)
    labels_NHW = np.empty((len(ids), plan.size, plan.size), np.uint8)
    wait, ignore_foreign = begin(store, task, images_NSBHW, labels_NHW, None, 0)
    wait()
    ignore_foreign()
    return images_NSBHW, labels_NHW


def seed_of(seed: int, place: int) -> int:
    """Seed of a patch's augmentation, from the seed of the run and the patch's position in the run."""
    return int(np.random.SeedSequence((seed, place)).generate_state(1)[0])


def bytes_read() -> int:
    """Bytes that this process has read from storage: files and object stores."""
    found = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/")
    return sum(int(metric["values"][0]["value"]) for metric in found if metric["name"].endswith("/bytes_read"))


def serve(pipe: Connection, memory: mmap.mmap, setup: Setup) -> None:
    """Fill this reader's share of the requested batches, in order, until the loader closes the pipe.

    Reads of all requested batches start immediately, so the next batch is read while this one is augmented.
    """
    images, labels, notes = setup.layout.arrays(memory)
    share = setup.layout.share(setup.reader)
    note = notes[setup.reader]
    begun: deque[tuple[int, Callable[[], None], Callable[[], None]]] = deque()
    while True:
        while not begun or pipe.poll():
            task: Task = pipe.recv()
            note[:] = READING, task.index
            begun.append((task.index, *begin(
                setup.store, task, images[task.slot, share], labels[task.slot, share], setup.augment, setup.seed)))
        index, wait, vary = begun.popleft()
        note[:] = READING, index
        wait()
        note[:] = VARYING, index
        vary()
        note[:] = IDLE, index
        pipe.send(Done(index=index, bytes_read=bytes_read()))


def main() -> None:
    """Serve until the loader closes the pipe or dies. Errors about data are sent to the loader; any other error ends
    the process with its traceback."""
    pipe_fd, memory_fd, lifeline, parent = map(int, sys.argv[1:])
    cv2.setNumThreads(0)  # the readers are the threads
    threading.Thread(target=_die_with, args=(lifeline, parent), daemon=True).start()
    pipe = Connection(pipe_fd)
    try:
        setup: Setup = pipe.recv()
        if setup.store.fingerprint != setup.fingerprint:  # its scenes would not be those of the plan
            raise StoreError(f"{setup.store.uri}: scenes have been ingested or removed since the run opened it; start "
                             "the run again")
        serve(pipe, mmap.mmap(memory_fd, setup.layout.total_bytes), setup)
    except PatchstoreError as error:
        pipe.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the loader is gone
    sys.stderr.flush()
    os._exit(0)  # reads that were begun are not waited for


def _die_with(lifeline: int, parent: int) -> None:
    """End this process when the loader's process ends, even during a read that hangs. It ends when nobody holds the
    other end of the lifeline. If a process that the loader forked still holds it, this process ends when its parent
    changes."""
    while not select.select([lifeline], [], [], 1.0)[0] and os.getppid() == parent:
        pass
    os._exit(1)
