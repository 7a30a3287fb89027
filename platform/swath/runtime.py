"""Settings of the whole process: device, threads, memory, and the choice of convolution algorithms."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from swath.config import DeviceName
from swath.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""glibc's malloc.h."""


def choose_device(name: DeviceName) -> torch.device:
    """The device that a configuration's `cluster.device` means on this machine.

    Raises ConfigError when a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("cluster.device is cuda, but this machine has no usable GPU; use --cluster.device auto")
    return torch.device(name)


def use_threads(cpus: int) -> None:
    """Let torch use so many cores (0: all of the machine's), whatever OMP_NUM_THREADS says."""
    torch.set_num_threads(cpus or os.cpu_count() or 1)


@contextmanager
def deterministic_convolutions() -> Iterator[None]:
    """Within the block cuDNN chooses its algorithms by rule, not by trial, and only among those that repeat to the bit.

    The same input then has the same bytes on any day, and on any GPU of one kind. The settings are the process's own
    and are restored afterwards.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def keep_memory() -> None:
    """Let this process keep the memory that a network's tensors leave, for those of its next step.

    glibc gives large blocks back to the system, which has to clear each page anew: a third of a U-Net's training on two
    cores went there (README, "Training"). Other systems' allocators are left as they are.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
