"""What predicting a scene takes beside its network, in time and in memory, and what other ways take. By hand.

    python tests/bench/bench_predict.py --keep DIR --python PYTHON     every row
    python tests/bench/bench_predict.py --shrink 8 --repetitions 1     a quick look, without MONAI

MONAI runs under PYTHON, since nothing of swath needs it (without --python its rows are left out):

    python3.11 -m venv DIR && DIR/bin/pip install -c constraints.txt -e . scipy monai==1.6.1

Networks have random weights; windows of 256 px overlap by half, 16 to a batch. Ways that are compared take turns, in
another order at each repetition, and a ratio is the median of the repetitions' own. Where memory is measured each takes
its turn in a process of its own (bench_predictors.py). On a shared machine only the ratios mean something.
"""

import json
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

import bench_inputs
import patchstore
from bench_predictors import CLASSES, NETWORKS, OVERLAP, SIZE, network, save_convolution
from bench_processes import run
from bench_race import Row, Way, Work, race, show, versus, write_figures
from swath.models import inference
from swath.models.inference import Forward
from swath.prediction import streaming
from swath.prediction.readers import ArrayReader, Reader, StoreReader
from swath.runtime import use_threads

Figures = dict[str, float]
"""What a process measured, by name."""
Part = Literal["forward", "memory", "others"]
PARTS: tuple[Part, ...] = ("forward", "memory", "others")
SCENES: Mapping[tuple[str, str], tuple[int, int]] = {
    ("small", "cpu"): (2048, 3072), ("large", "cpu"): (1024, 1536), ("small", "cuda"): (4096, 6144),
    ("large", "cuda"): (4096, 6144)}
"""Of the part `forward`, in rows and columns, by network and device: what takes half a minute without a GPU."""
TALL = (2560, 9000)
"""Of the part `memory`, the lowest."""
TIMES = (1, 4, 8)
"""How high the scenes of that part are, over the lowest."""
WIDE = (3000, 4000)
"""Of the part `others`."""
FLAT = 1.1
"""Most that the memory of the highest scene may be over that of the lowest."""
RIVALS: Mapping[str, str] = {"tutorial": "tutorials' blending",
                             "monai": "MONAI, gaussian"}
VERSIONS = ("torch", "segmentation-models-pytorch", "timm", "tensorstore", "rasterio")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure, and on what."""

    only: tuple[Part, ...] = PARTS
    """Parts of the table."""
    networks: tuple[Literal["small", "large"], ...] = ("small", "large")
    """Networks of the part `forward`: U-Nets over a MobileNetV3 small 0.5 and over a ResNet-50."""
    repetitions: int = 3
    """How often each way is measured."""
    shrink: int = 1
    """What the sides of all scenes are divided by, for a quick look."""
    python: Path | None = None
    """The interpreter that has MONAI."""
    keep: Path | None = None
    """Folder for the scenes, used again the next time; else they are removed at the end."""
    json: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        if self.repetitions < 1 or not 1 <= self.shrink <= 8:
            raise SystemExit("need 1 or more repetitions, and scenes shrunk by 1 to 8")


class Bench:
    """Each public method measures one part of the table."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.notes: list[str] = []
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def forward(self) -> Iterator[Row]:
        """Predicting a scene against the forward passes of its windows, which lie on the device in their batches."""
        use_threads(0)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True  # as jobs/predict.py has it
        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        if len(devices) == 1:
            self.notes.append("forward: no CUDA device here; its rows are left out")
        for device in map(torch.device, devices):
            for name in self.settings.networks:
                scene, shape = self._scene(SCENES[name, device.type], "store")
                rates = race(_forward_ways(name, device, scene), self.settings.repetitions)
                what = "{}, {}, {} x {}".format(name, device.type, *shape)
                for way, words, wanted in (("store", "from the store", 0.9), ("memory", "from memory", None)):
                    yield versus(f"{what}, {words}", "bare forward passes", wanted, rates[way], rates["bare"],
                                 "kpx/s")

    def memory(self) -> Iterator[Row]:
        """The whole job, by a network of one convolution, at several heights."""
        checkpoint = self.folder / "convolution"
        shutil.rmtree(checkpoint, ignore_errors=True)
        checkpoint.mkdir()
        save_convolution(checkpoint)
        ways: dict[str, Callable[[], Figures]] = {}
        for times in TIMES:
            scene, shape = self._scene(TALL, "tiled", times)
            argument = {"task": "job", "run": str(checkpoint), "image": str(_image(scene)),
                        "out": str(self.folder / "maps" / f"{shape[0]}.tif")}
            ways[f"{shape[0]} x {shape[1]}"] = self._process(Path(sys.executable), argument)
        figures = _in_turns(ways, self.settings.repetitions)
        peaks = {name: [each["mb"] for each in found] for name, found in figures.items()}
        for name, found in figures.items():
            yield Row(what=f"job, {name}, peak MB above imports", against="", wanted=None, at_most=True,
                      ratios=tuple(peaks[name]))
            self.notes.append(f"job, {name}: {statistics.median(each['seconds'] for each in found):.1f} s")
        lowest, *_, highest = peaks.values()
        yield Row(what=f"job, peak at {TIMES[-1]} times the height", against="the lowest", wanted=FLAT,
                  at_most=True, ratios=tuple(high / low for high, low in zip(highest, lowest, strict=True)),
                  ours=statistics.median(highest), theirs=statistics.median(lowest), unit="MB")

    def others(self) -> Iterator[Row]:
        """From a file to its classes in memory, against others on the CPU."""
        scene, shape = self._scene(WIDE, "tiled")
        pythons = {"ours": Path(sys.executable), "tutorial": Path(sys.executable)}
        if self.settings.python is None:
            self.notes.append("others: no --python, so MONAI is left out")
        else:
            pythons["monai"] = self.settings.python
        outputs = {name: self.folder / f"{name}.npy" for name in pythons}
        figures = _in_turns({name: self._process(python, {
            "task": name, "network": "small", "image": str(_image(scene)), "out": str(outputs[name])})
            for name, python in pythons.items()}, self.settings.repetitions)
        what = "small, cpu, {} x {}".format(*shape)
        rates = {name: [shape[0] * shape[1] / 1e3 / each["seconds"] for each in found]
                 for name, found in figures.items()}
        peaks = {name: [each["mb"] for each in found] for name, found in figures.items()}
        for name in list(pythons)[1:]:
            yield versus(f"{what}, speed", RIVALS[name], None, rates["ours"], rates[name], "kpx/s")
            yield Row(what=f"{what}, peak, over ours", against=RIVALS[name], wanted=None, unit="MB",
                      ratios=tuple(theirs / own for theirs, own in zip(peaks[name], peaks["ours"], strict=True)),
                      ours=statistics.median(peaks["ours"]), theirs=statistics.median(peaks[name]))
            same = np.mean(np.load(outputs["ours"]) == np.load(outputs[name]))
            self.notes.append(f"others: {same:.2%} of the pixels have our class by {RIVALS[name]}")
        beyond = {name: statistics.median(each["beyond_mb"] for each in found) for name, found in figures.items()}
        self.notes.append("others: peak MB beyond that of one forward pass: " + ", ".join(
            f"{name} {mb:.0f}" for name, mb in beyond.items()))

    def _scene(self, shape: tuple[int, int], form: bench_inputs.Form, times: int = 1) -> tuple[Path, tuple[int, int]]:
        """The folder of a scene, so many times as high as a shape, and its own shape."""
        height, width = (side // self.settings.shrink for side in shape)
        folder = self.folder / f"{height * times}x{width}"
        bench_inputs.prepare(folder, 1, (height * times, width), (form,))
        return folder, (height * times, width)

    def _process(self, python: Path, argument: Mapping[str, Any]) -> Callable[[], Figures]:
        """What does a task in a fresh process, and returns its figures."""
        log = self.folder / "logs" / f"{argument['task']}.log"

        def measure() -> Figures:
            figures: Figures = json.loads(run(python, "bench_predictors.py", argument, log))
            return figures

        return measure


def _image(scene: Path) -> Path:
    return bench_inputs.files(scene, "tiled", "scene_0")[0]


def _forward_ways(name: str, device: torch.device, scene: Path) -> dict[str, Way]:
    """Predicting a scene from the store and from memory, and the bare forward passes; rates in 10³ scene pixels."""
    model = NETWORKS[name]
    forward = inference.network_forward(network(model).to(device), inference.precision("auto", device))
    store = patchstore.open(bench_inputs.store_uri(scene))
    reader = StoreReader(store, "scene_0")
    height, width = reader.shape
    image_BHW = store.region("scene_0", "image", (0, height), (0, width))
    batches: list[torch.Tensor] = []

    def keep(images_NSBss: torch.Tensor) -> torch.Tensor:
        """A forward that gives no scores, and keeps the very batches that predicting makes."""
        batches.append(images_NSBss)
        return torch.zeros((len(images_NSBss), CLASSES, SIZE, SIZE), device=device)

    _predict(reader, keep, device)

    def bare() -> None:
        for images_NSBss in batches:
            forward(images_NSBss)
        if device.type == "cuda":
            torch.cuda.synchronize()

    works: dict[str, Callable[[], None]] = {
        "bare": bare, "store": lambda: _predict(reader, forward, device),
        "memory": lambda: _predict(ArrayReader(image_BHW), forward, device)}

    def way(work: Callable[[], None]) -> Way:
        def ready(repetition: int) -> Work:
            return height * width / 1e3, work
        return ready

    return {name: way(work) for name, work in works.items()}


def _predict(reader: Reader, forward: Forward, device: torch.device) -> None:
    """The classes of a scene, row after row."""
    whole = streaming.part(reader, size=SIZE, scales=(1,), overlap=OVERLAP)
    rows = streaming.blend(whole, forward, classes=CLASSES, batch=streaming.batch_size(SIZE), device=device)
    for _ in streaming.classes_of(rows):
        pass


def _in_turns(ways: Mapping[str, Callable[[], Figures]], repetitions: int) -> dict[str, list[Figures]]:
    """Figures by way and repetition: all ways in turn, in another order each time."""
    figures: dict[str, list[Figures]] = {name: [] for name in ways}
    turn = random.Random(0)
    for _ in range(repetitions):
        for name in turn.sample(sorted(ways), len(ways)):
            figures[name].append(ways[name]())
    return figures


def main() -> None:
    """Measure, print, and write the figures down."""
    settings = tyro.cli(Settings, description=__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(settings, settings.keep or Path(temporary))
        parts = {"forward": bench.forward, "memory": bench.memory, "others": bench.others}
        rows = [row for name in settings.only for row in parts[name]()]
    show(f"medians of {settings.repetitions} interleaved repetitions", rows, bench.notes)
    if settings.json is not None:
        write_figures(settings.json, asdict(settings), rows, bench.notes, VERSIONS)


if __name__ == "__main__":
    main()
