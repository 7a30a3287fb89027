"""The pictures of the README, from the run of a quick start.

    python jobs/quickstart.py --workdir DIR
    python tests/bench/readme_pictures.py DIR        writes .github/*.png; needs chromium on the PATH
"""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image

import patchstore

TARGET = Path(__file__).parents[2] / ".github"
WIDTH = 840
"""Pixels of a picture: sharp on a page, and below 150 KB."""
WAIT_MS = 15_000
"""Of the browser for MLflow's tables and curves."""
PAGE = (slice(20, 770), slice(200, 1260))
"""Rows and columns of the browser's window that show the curves; to the right of them stands MLflow's assistant."""
QUIET = ("--headless", "--no-sandbox", "--disable-quic", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
         "--disable-sync", "--disable-background-networking", "--disable-component-update")


def main(workdir: Path) -> None:
    """Draw all three."""
    database = workdir / "mlflow.db"
    with closing(sqlite3.connect(database)) as records:
        winner, experiment = records.execute(
            "select run_uuid, experiment_id from tags join runs using (run_uuid) "
            "where key = 'swath.role' and value = 'winner'").fetchone()
        trials = [run for run, in records.execute(
            "select run_uuid from tags where key = 'swath.role' and value = 'trial'")]
    scene_map(workdir, next((workdir / "maps").glob("*.tif")))
    sheet = cv2.imread(str(workdir / "artifacts" / winner / "artifacts" / "predictions.png"))
    assert sheet is not None
    write(sheet, "predictions.png")
    comparison(database, experiment, [*trials, winner])


def scene_map(workdir: Path, path: Path) -> None:
    """Orthophoto, labels and map of one scene, side by side."""
    store = patchstore.open(str(workdir / "synthetic.zarr"))
    rows, cols = store.scenes[path.stem].shape
    image = store.region(path.stem, "image", (0, rows), (0, cols))
    labels = store.region(path.stem, "mask", (0, rows), (0, cols))
    with rasterio.open(path) as file:
        classes, table = file.read(1), file.colormap(1)
    colours = np.array([table[value][:3] for value in range(256)], np.uint8)
    gap = np.full((rows, cols // 48, 3), 255, np.uint8)
    side_by_side = [image[:3].transpose(1, 2, 0), gap, colours[labels], gap, colours[classes]]
    write(np.hstack(side_by_side)[..., ::-1], "map.png")


def comparison(database: Path, experiment: int, runs: list[str]) -> None:
    """MLflow's own page that compares the runs by their score on the validation sample."""
    chromium = shutil.which("chromium")
    if not chromium:
        raise SystemExit("the picture of the comparison needs chromium on the PATH")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mlflow = [Path(sys.executable).with_name("mlflow"), "server", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen([*mlflow, "--backend-store-uri", f"sqlite:///{database.resolve()}"],
                              stderr=subprocess.DEVNULL)
    try:
        _await(port)
        query = urlencode({name: json.dumps(value) for name, value in {
            "runs": runs, "experiments": [str(experiment)], "metric": "val_part/miou",
            "plot_metric_keys": ["val_part/miou"]}.items()})
        with tempfile.TemporaryDirectory() as folder:
            shot = Path(folder) / "shot.png"
            subprocess.run([chromium, *QUIET, f"--user-data-dir={folder}/profile", "--window-size=1700,1000",
                            f"--screenshot={shot}", f"--virtual-time-budget={WAIT_MS}",
                            f"http://127.0.0.1:{port}/#/metric?{query}"], check=True, stderr=subprocess.DEVNULL)
            picture = cv2.imread(str(shot))
        assert picture is not None
        write(picture[PAGE], "compare.png")
    finally:
        server.terminate()
        server.wait()


def _await(port: int, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with closing(socket.socket()) as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise SystemExit(f"MLflow did not answer within {timeout_s:.0f} s")


def write(picture_HW3: NDArray[np.uint8], name: str) -> None:
    """A picture (row, col, BGR), shrunk to a width, as PNG with a palette of 256 colours."""

    size = (WIDTH, round(picture_HW3.shape[0] * WIDTH / picture_HW3.shape[1]))
    small = cv2.resize(picture_HW3, size, interpolation=cv2.INTER_AREA)
    Image.fromarray(np.ascontiguousarray(small[..., ::-1])).quantize(256).save(TARGET / name, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
