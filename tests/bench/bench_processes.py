"""The processes of bench_loader.py: each way to load in one of its own, and each export."""

import json
import os
import shutil
import statistics
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from bench_exports import Export
from bench_loaders import BATCH, Spec
from bench_race import Work

HERE = Path(__file__).parent
PLATFORM = HERE.parent.parent / "platform"
"""On the path of an environment in which swath is not installed, for its augmentation."""
FEW = 8
"""Batches that say how fast a way is."""
PATIENCE_S = 10.0
"""How long a process may take to end."""


class Served:
    """A way to load, as `race` runs it: begins an epoch, then times as many batches as take about `seconds`."""

    def __init__(self, spec: Spec, python: Path, seconds: float, log: Path) -> None:
        """Starts the process; `wait` until it is ready."""
        self._seconds = seconds
        self._log = log
        self._count = self._most = 0
        self._cores: list[float] = []
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            self._process = subprocess.Popen([python, HERE / "bench_loaders.py", json.dumps(asdict(spec))], text=True,
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=_env())

    def wait(self) -> None:
        """Until its loader is ready."""
        self._most = int(self._answer()["most"])

    def __call__(self, repetition: int) -> Work:
        """One repetition; before the first, a few batches say how many to load at a time."""
        if not self._count:
            few = min(FEW, self._most)
            self._ask(f"next {few}")
            rate = few / self._ask(f"take {few}")["seconds"]
            self._count = max(1, min(self._most, round(rate * self._seconds)))
        self._ask(f"next {self._count}")
        return self._count * BATCH, self._take

    @property
    def cores(self) -> float:
        """Processor seconds a second, the median."""
        return statistics.median(self._cores)

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _take(self) -> None:
        figures = self._ask(f"take {self._count}")
        self._cores.append(figures["cpu_s"] / figures["seconds"])

    def _ask(self, line: str) -> dict[str, float]:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a loader ended; the end of {self._log}:\n{_end(self._log)}")
        figures: dict[str, float] = json.loads(line)
        return figures


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Patches in another form."""

    folder: Path
    """Where they are."""
    seconds: float
    """What writing them took."""
    mb: float
    """What they take on disk, in 10⁶ bytes, as they were written (a loader may unpack them beside that)."""


def export_once(export: Export, python: Path) -> Exported:
    """Export patches unless that was done before."""
    out = Path(export.out)
    done = out.with_suffix(".json")
    if not done.exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        seconds = float(run(python, "bench_exports.py", asdict(export), out.with_suffix(".log")))
        done.write_text(json.dumps({"seconds": seconds, "mb": folder_mb(out)}))
    return Exported(folder=out, **json.loads(done.read_text()))


def run(python: Path, script: str, argument: Any, log: Path) -> str:
    """What a script of this folder prints. Raises SystemExit when it fails."""
    with log.open("w") as file:
        done = subprocess.run([python, HERE / script, json.dumps(argument)], text=True, stdout=subprocess.PIPE,
                              stderr=file, env=_env())
    if done.returncode:
        raise SystemExit(f"{script} failed; the end of {log}:\n{_end(log)}")
    return done.stdout


def folder_mb(folder: Path) -> float:
    """Bytes of all files in a folder and below, in 10⁶."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _end(log: Path) -> str:
    return log.read_text()[-2000:]


def _env() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(PLATFORM))))
    return {**os.environ, "PYTHONPATH": path}
