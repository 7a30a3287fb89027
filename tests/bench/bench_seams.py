"""Whether a map shows where its windows met: class changes across the borders of windows, over those elsewhere.

    python tests/bench/bench_seams.py RUN --store runs/dubai.zarr [--scene NAME] [--picture seams.png]

Predicts a scene of the store by a trained model, with windows that overlap by half and are blended, and with windows
that do not. A map without seams has the ratio 1, but for chance: `elsewhere` is taken over every shift of the same
lines that meets no border, and their spread stands beside it. Seconds on a CPU for a scene of a megapixel.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import patchstore
from swath import figures
from swath.experiments.evaluation import load_run
from swath.models.inference import load_for_inference
from swath.prediction import readers, streaming
from swath.prediction.windows import Axis, Lattice
from swath.runtime import choose_device
from swath.splits.division import divide

OVERLAPS = (0.5, 0.0)
SHIFTS = 24
"""Shifts of the lines to either side, at most."""


def borders(axis: Axis) -> NDArray[np.int64]:
    """Pixels before which a window of an axis begins or behind which one ends, the scene's own ends left out."""
    ends = np.concatenate([axis.starts, axis.starts + axis.side])
    return np.unique(ends[(ends > 0) & (ends < axis.length)])


def rates(classes_HW: NDArray[np.uint8], windows: Lattice) -> tuple[float, NDArray[np.float64]]:
    """Share of neighbouring pixels of different classes across the windows' borders, and across the same lines at each
    shift that touches none."""
    changes = classes_HW[1:] != classes_HW[:-1], (classes_HW[:, 1:] != classes_HW[:, :-1]).T
    lines = borders(windows.rows), borders(windows.cols)

    def rate(shift: int) -> float:
        met = [change[line + shift - 1].ravel() for change, line in zip(changes, lines, strict=True) if len(line)]
        return float(np.concatenate(met).mean())

    inside = [shift for shift in range(-SHIFTS, SHIFTS + 1) if shift and all(
        len(line) == 0 or (line.min() + shift > 0 and line.max() + shift <= len(change)
                           and not np.isin(line + shift, line).any())
        for change, line in zip(changes, lines, strict=True))]
    return rate(0), np.array([rate(shift) for shift in inside])


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--store", required=True)
    parser.add_argument("--scene", default="", help="default: the first of the test split")
    parser.add_argument("--workdir", type=Path, default=Path("runs"))
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    trained, _ = load_run(arguments.run, arguments.workdir)
    store = patchstore.open(arguments.store, merge=trained.config.data.merge)
    scene = arguments.scene or next(name for name, _ in divide(store, trained.config.split).scenes("test"))
    device = choose_device("auto")
    forward = load_for_inference(trained, device)
    size, scales = trained.config.patches.size, trained.config.patches.scales
    reader = readers.StoreReader(store, scene)
    table = Table(title=f"{scene}: windows of {size} px, scales {scales}", title_justify="left")
    for name in ("overlap", "across borders", "elsewhere", "its spread", "ratio"):
        table.add_column(name, justify="right")
    maps = []
    for overlap in OVERLAPS:
        part = streaming.part(reader, size=size, scales=scales, overlap=overlap)
        rows = streaming.classes_of(streaming.blend(part, forward, classes=len(store.classes), device=device,
                                                batch=streaming.batch_size(size)))
        maps.append(np.concatenate([classes_hW for _, classes_hW in rows]))
        at, elsewhere = rates(maps[-1], part.lattices[0])
        table.add_row(f"{overlap:g}", f"{at:.4f}", f"{elsewhere.mean():.4f}", f"{elsewhere.std(ddof=1):.4f}",
                      f"{at / elsewhere.mean():.2f}")
    Console().print(table)
    if arguments.picture:
        height, width = store.scenes[scene].shape
        image = store.region(scene, "image", (0, height), (0, width))
        labels = store.region(scene, "mask", (0, height), (0, width))
        figures.sheet(np.stack([image] * len(maps)), np.stack([labels] * len(maps)), np.stack(maps),
                       [c.colour for c in store.classes], names=[c.name for c in store.classes], ignore=store.ignore,
                       path=arguments.picture, titles=[f"overlap {overlap:g}" for overlap in OVERLAPS])


if __name__ == "__main__":
    main()
