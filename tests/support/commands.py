"""Jobs run as a user runs them, and the JSON that they print."""

import json
import subprocess
import sys

from support.paths import ROOT


def run_job(name: str, *arguments: object, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """Run a job as a user does: run_job("train", "synthetic", …) -> the finished process."""
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def last_json(result: "subprocess.CompletedProcess[str]") -> dict:  # type: ignore[type-arg]
    """The JSON in the last line of a job that succeeded."""
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.strip().splitlines()[-1])
