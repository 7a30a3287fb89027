"""A ring of batches in shared memory. Reader processes fill it ahead; each fills its own positions of every batch.

Only windows are pickled, and nothing is copied. One batch is read while another is augmented and while Python runs the
training loop. Compared with one thread, two processes augment patches 1.7 to 2.5 times as fast, and two threads 0.7 to
1.4 times (256 px, two cores, measured for each pipeline).

Readers are started as separate programs. A fork does not work, because TensorStore does not survive it. A spawn by
multiprocessing would import the job's modules, including torch, into each reader. Readers end with the loader in all
cases: each holds a pipe that breaks when the loader's process is gone.
"""

import math
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchstore import PatchstoreError
from swath.errors import LoaderError
from swath.loading.reader import IDLE, READING, STARTING, VARYING, Done, Setup, Task

SLOTS = 4
"""Number of batches in the ring: one is used, one is ready, one is being augmented, one is being read."""
_DOING = {STARTING: "starting, for", IDLE: "waiting for", READING: "reading", VARYING: "varying"}
_MAIN = ("from signal import SIG_IGN, SIGINT, SIGTERM, signal; signal(SIGINT, SIG_IGN); signal(SIGTERM, SIG_IGN); "
         "from swath.loading.reader import main; main()")
"""Ctrl-C and `ray job stop` signal all processes, also while readers import. Readers ignore the signals; the loader
ends them after the last step and checkpoint, which still need them. (-P: do not import from the current folder of the
user.)"""
_START_S = 120.0
"""Seconds that a reader may take until its first batch. It imports its libraries, possibly on a busy machine."""
_GRACE_S = 5.0
"""Seconds that a reader may take to end by itself."""


class Ring:
    """Reader processes and the batches that they fill. Close it after use."""

    def __init__(self, setup: Setup, stuck_s: float) -> None:
        """Start the number of readers in the setup's layout. `take` gives up after `stuck_s` seconds without a batch.
        """
        self.layout = setup.layout
        self._stuck_s = stuck_s
        self._tasks: dict[int, Task] = {}
        self._read = [0] * self.layout.readers
        descriptor = _anonymous_file(self.layout.total_bytes)
        self.memory = mmap.mmap(descriptor, self.layout.total_bytes)
        self.images, self.labels, self._notes = self.layout.arrays(self.memory)
        lifeline, life = os.pipe()
        self._life: int | None = life
        self._readers: list[subprocess.Popen[bytes]] = []
        self._pipes: list[Connection[Any, Any]] = []
        for number in range(self.layout.readers):
            pipe, theirs = Pipe()
            _give_up_sending(pipe, max(stuck_s, _START_S))
            self._readers.append(_start(theirs.fileno(), descriptor, lifeline))
            theirs.close()
            self._pipes.append(pipe)
            pipe.send(replace(setup, reader=number))
        os.close(lifeline)
        os.close(descriptor)

    @property
    def bytes_read(self) -> int:
        """Bytes that all readers have read from storage."""
        return sum(self._read)

    def ask(self, task: Task) -> None:
        """Request a batch; its slot must be free. Raises LoaderError if a reader has not listened for too long."""
        self._tasks[task.index] = task
        for number, pipe in enumerate(self._pipes):
            share = self.layout.share(number)
            part = replace(task, place=task.place + share.start, views=task.views[share], own=task.own[share])
            try:
                pipe.send(part)
            except (BrokenPipeError, ConnectionResetError):
                pass  # `take` hears what the reader has said before it ended
            except BlockingIOError:
                raise self._stuck(number, task, max(self._stuck_s, _START_S)) from None

    def take(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Wait for a batch: its images_NSBHW and labels_NHW, in the ring. Batches are taken in the order of the
        requests.

        Raises the error of a reader (ReadError), and LoaderError if a reader has ended or hangs.
        """
        task = self._tasks[index]
        for number in range(len(self._pipes)):
            done = self._hear(number, task)
            if done.index != index:  # readers answer in the order of asking
                raise AssertionError(f"reader {number} gave batch {done.index} for {index}")
            self._read[number] = done.bytes_read
        del self._tasks[index]
        return self.images[task.slot], self.labels[task.slot]

    def close(self) -> None:
        """End the readers. Unfinished batches are dropped."""
        for pipe in self._pipes:
            pipe.close()
        if self._life is not None:
            os.close(self._life)
            self._life = None
        until = time.monotonic() + _GRACE_S
        for process in self._readers:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                with suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel goes when that lets it
                    process.wait(1.0)

    def _hear(self, number: int, task: Task) -> Done:
        """The next message of a reader. `task` is the batch that is expected."""
        limit_s = self._stuck_s if self._read[number] else max(self._stuck_s, _START_S)
        try:
            if not self._pipes[number].poll(limit_s):
                raise self._stuck(number, task, limit_s)
            said: Done | PatchstoreError = self._pipes[number].recv()
        except (EOFError, ConnectionResetError):
            raise LoaderError(f"{self._state(number, task)} when it {self._end(number)}") from None
        if isinstance(said, Done):
            return said
        raise said

    def _stuck(self, number: int, task: Task, limit_s: float) -> LoaderError:
        return LoaderError(f"no batch for {limit_s:g} s (cluster.stuck_s): {self._state(number, task)}; "
                           "look at the storage, or allow more")

    def _end(self, number: int) -> str:
        """How a reader ended, as text."""
        try:
            code = self._readers[number].wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            return "hung up; see its message above"
        if code == -9:
            return "was ended by signal 9; was the machine out of memory?"
        return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}; see its message above"

    def _state(self, number: int, task: Task) -> str:
        """What a reader was doing, as text."""
        what, noted = (int(value) for value in self._notes[number])
        index = noted if what in (READING, VARYING) and noted in self._tasks else task.index
        places = ", ".join(f"{w.scene} row {w.row} col {w.col} side {w.side}"
                           for w in self._tasks.get(index, task).windows[self.layout.share(number)][:4])
        return f"reader {number} (process {self._readers[number].pid}) was {_DOING[what]} batch {index} ({places}, …)"


def _give_up_sending(pipe: "Connection[Any, Any]", after_s: float) -> None:
    """Let a send fail if nobody has listened for this many seconds: a watchdog for a full pipe."""
    with socket.socket(fileno=os.dup(pipe.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", math.ceil(after_s), 0))


def _start(pipe: int, memory: int, lifeline: int) -> "subprocess.Popen[bytes]":
    environment = {"MALLOC_ARENA_MAX": "1",  # each arena of TensorStore's threads keeps its own leftovers: over six
                   # epochs of 2,200 patches a reader grew by 30 MB, with one arena by 2 MB, as fast (measured)
                   **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # a cluster's copy of the code
    return subprocess.Popen([sys.executable, "-P", "-c", _MAIN, *map(str, (pipe, memory, lifeline, os.getpid()))],
                            pass_fds=(pipe, memory, lifeline), env=environment, stdin=subprocess.DEVNULL)


def _anonymous_file(size: int) -> int:
    """Descriptor of an unnamed file of zeros. Nothing is left of it when the process ends, however it ends.

    It is not in /dev/shm, because containers keep that small.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("swath-ring")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor
