"""Signals that ask a process to end, heeded at a moment of its own choice: after a step, with its state saved."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SAID = "told to end: the run is saved first; a second signal ends it at once\n"


class StopRequest:
    """Whether a signal has asked this process to end, and which."""

    def __init__(self) -> None:
        self.number = 0

    def __bool__(self) -> bool:
        return self.number != 0

    def reraise(self) -> None:
        """End as the signal asks, where there was one: raises KeyboardInterrupt for SIGINT, else SystemExit with
        128 + its number."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number:
            raise SystemExit(128 + self.number)


@contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Within the block the first SIGTERM or SIGINT is noted, and no more; the second does what it did before.

    Only a process's main thread can heed signals: in another thread nothing is ever noted.
    """
    told = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def hear(number: int, frame: FrameType | None) -> None:
        told.number = number
        restore()
        with suppress(OSError):  # who reads it may have been told to end too
            os.write(2, _SAID.encode())  # a handler may come in the middle of a print

    for number in before:
        signal.signal(number, hear)
    try:
        yield told
    finally:
        restore()
