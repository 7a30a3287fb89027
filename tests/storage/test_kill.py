"""An ingest that is killed at any moment, and run again: the same bytes, and no reader ever saw a part of a scene."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio

import patchstore
from patchstore.upkeep.auditing import SceneAudit, audit_scene

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")]
SHAPE = (1000, 900)
MOMENTS = 20
INGEST = """
import pathlib, sys, time
import patchstore
uri, source = sys.argv[1], pathlib.Path(sys.argv[2])
print("ready", flush=True)
patchstore.create(uri, dtype="uint8", bands=3, classes=[patchstore.ClassInfo("a", (1, 1, 1))], chunk=64, shard=256)
for name in "xy":
    patchstore.ingest(uri, patchstore.SceneSource(name=name, group=name, image=source / f"{name}.tif",
                                                        mask=source / f"{name}_mask.tif"))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes with nodata and masks."""
    folder, rng = tmp_path_factory.mktemp("source"), np.random.default_rng(5)
    for name in "xy":
        pixels = rng.integers(0, 9, (3, *SHAPE), np.uint8)
        labels = rng.integers(0, 2, (1, *SHAPE), np.uint8) * np.uint8(255)
        for path, values, nodata in ((f"{name}.tif", pixels, 0), (f"{name}_mask.tif", labels, None)):
            with rasterio.open(folder / path, "w", driver="GTiff", count=len(values), height=SHAPE[0], width=SHAPE[1],
                               dtype="uint8", nodata=nodata) as file:
                file.write(values)
    return folder


def start(uri: Path, source: Path) -> "subprocess.Popen[str]":
    """An ingest in a process of its own, once it has imported what it needs."""
    env = os.environ | {"PYTHONPATH": str(Path(patchstore.__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", INGEST, uri, source], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Reader(threading.Thread):
    """Opens a store again and again, and audits every scene that it sees there."""

    def __init__(self, uri: Path) -> None:
        super().__init__()
        self.uri = uri
        self.found: list[SceneAudit] = []
        self.looks = 0
        self.failed: list[BaseException] = []
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                self.look()
                time.sleep(0.005)  # leave the ingest a core
        except BaseException as error:
            self.failed.append(error)
            raise

    def look(self) -> None:
        """Whoever opens the store now sees these scenes."""
        self.looks += 1
        if (self.uri / "zarr.json").exists():
            for name in patchstore.open(self.uri).scenes:
                self.found.append(audit_scene(self.uri, name, sample=0.05, seed=self.looks))

    def stop(self) -> None:
        self._ended.set()
        self.join()


@pytest.mark.timeout(900)
def test_killed_at_random_moments(source: Path, tmp_path: Path) -> None:
    process, began = start(tmp_path / "whole.zarr", source), time.monotonic()
    assert process.wait() == 0
    took = time.monotonic() - began
    whole = content(tmp_path / "whole.zarr")
    moments = random.Random(11)
    killed = seen = 0
    for moment in range(MOMENTS):
        uri = tmp_path / "killed.zarr"
        reader = Reader(uri)
        reader.start()
        process, began = start(uri, source), time.monotonic()
        time.sleep(max(0.0, (moment + moments.random()) / MOMENTS * took - (time.monotonic() - began)))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        left = set(content(uri)) if uri.exists() else set()
        assert start(uri, source).wait() == 0
        reader.stop()
        reader.look()
        assert reader.failed == []
        assert [audit.problems for audit in reader.found if audit.problems or not audit.pixels] == []
        assert {audit.name for audit in reader.found[-2:]} == {"x", "y"}
        seen += len(reader.found) > 2
        assert content(uri) == whole, sorted(left - whole.keys())
        shutil.rmtree(uri)
    assert killed > MOMENTS / 2  # the last moments may come too late, when the machine is faster than it was
    assert seen
