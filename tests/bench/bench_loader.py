"""The loader against other loaders, and against itself without reading. By hand; needs the extra `bench`.

    python tests/bench/bench_loader.py --keep DIR --python PYTHON     every row, on four scenes of 9000 x 9500
    python tests/bench/bench_loader.py --side 4096 --repetitions 1 --seconds 0.5

LitData and MosaicML Streaming run under PYTHON, because the latter wants numpy below 2.2 (without --python their rows
are left out):

    python3.11 -m venv DIR && DIR/bin/pip install mosaicml-streaming==0.13.0 litdata==0.2.76 torch==2.15.0 \\
        torchvision==0.29.2 opencv-python-headless==5.0.0.93 pydantic==2.14.3 psutil==7.2.2

Each way of loading is a process of its own (bench_loaders.py), all of a part are started before the first is timed,
and they take turns, in another order at each repetition, after one that does not count; a ratio is the median of the
repetitions' own. Batches of 32; every DataLoader has two workers. On a shared machine only the ratios mean something.
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

import bench_inputs
import bench_start
import patchstore
from bench_exports import Export, Form, way_of
from bench_loaders import Spec, plan_of
from bench_processes import Exported, Served, export_once, folder_mb
from bench_race import Row, race, show, versus, write_figures

Part = Literal["overhead", "px256", "px512", "start", "memory", "device"]
PARTS: tuple[Part, ...] = ("overhead", "px256", "px512", "start", "memory", "device")
VARIED = {"flips": "flips", "library": "flips by albumentations"}
"""Augmentations of the part `overhead`, and what they are."""
STRIDE = 128
"""Of windows that share chunks."""
EXPORTED = 1024
"""Most patches that are exported at a stride below the size; all of them would be 16 times the pixels."""
GAIN_MB = 16
"""What passes for flat memory."""
RIVALS: Mapping[Form, str] = {"png": "PNG patches, DataLoader", "litdata": "LitData, raw",
                              "litdata_zstd": "LitData, zstd", "mosaic": "MosaicML Streaming, raw",
                              "mosaic_zstd": "MosaicML Streaming, zstd"}
VERSIONS = ("tensorstore", "torch", "opencv-python-headless", "torchgeo", "rasterio")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure, and on what."""

    only: tuple[Part, ...] = PARTS
    """Parts of the table."""
    scenes: int = 4
    """How many scenes."""
    side: int = 0
    """Side of a scene; 0: 9000 x 9500."""
    repetitions: int = 5
    """How often each way is measured."""
    seconds: float = 2.0
    """How long at a time, about."""
    python: Path | None = None
    """The interpreter that has litdata and mosaicml-streaming."""
    keep: Path | None = None
    """Folder for what is prepared, used again the next time; else it is removed at the end."""
    json: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        if min(self.scenes, self.repetitions) < 1 or (self.side and self.side < 2048):
            raise SystemExit("need 1 or more scenes and repetitions, and scenes of 2048 px or more")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a scene."""
        return (self.side, self.side) if self.side else (9000, 9500)


class Bench:
    """Each public method measures one part of the table."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder / "{}x{}".format(*settings.shape)
        bench_inputs.prepare(self.folder, settings.scenes, settings.shape, ("tiled", "raw", "store"))
        self.uri = bench_inputs.store_uri(self.folder)
        self.notes: list[str] = []

    def overhead(self) -> Iterator[Row]:
        """The loader against itself with its reads replaced, and its readers against one plain thread.

        How much reading adds depends on what it is added to: our flips cost a tenth of albumentations', so both stand.
        """
        ours = partial(Spec, source=self.uri, size=256)
        specs = {"plain": ours(way="ours", vary="none", readers=0, cores=1),
                 "plain, all cores": ours(way="ours", vary="none", readers=0), "two": ours(way="ours", vary="none"),
                 "dataloader": ours(way="dataloader", vary="flips")}
        for vary in VARIED:
            for readers in (1, 2):
                specs[f"{vary}, {readers}"] = ours(way="ours", vary=vary, readers=readers)
                specs[f"{vary}, {readers}, memory"] = ours(way="memory", vary=vary, readers=readers)
            specs[f"{vary}, 2, near"] = ours(way="ours", vary=vary, stride=STRIDE)
        rates, memory = self._race(specs), "reads replaced by an array in memory"
        for vary, name in VARIED.items():
            for key, readers, wanted, words in (("1", 1, 0.85, "one reader"), ("2", 2, None, "two readers"),
                                                ("2, near", 2, 0.75, f"two readers, stride {STRIDE}, in order")):
                yield versus(f"256 px, read + {name} + collate, {words}", memory, wanted,
                             rates[f"{vary}, {key}"], rates[f"{vary}, {readers}, memory"])
        yield versus("256 px, read + flips + collate, two readers", "torch DataLoader over the store, two workers",
                     None, rates["flips, 2"], rates["dataloader"])
        for plain, words, wanted in (("plain", "one core", 1.5), ("plain, all cores", "TensorStore free", None)):
            yield versus("256 px, no augmentation, two readers", f"one plain thread, {words}", wanted, rates["two"],
                         rates[plain])

    def px256(self) -> Iterator[Row]:
        """Patches side by side."""
        wanted = {"png": 1, "torchgeo": 1, "litdata": 1, "litdata_zstd": 1, "mosaic": 0.9, "mosaic_zstd": 0.9}
        yield from self._rivals(256, 256, wanted)

    def px512(self) -> Iterator[Row]:
        """Overlapping patches, which others export with their overlap."""
        yield from self._rivals(512, STRIDE, dict.fromkeys(("torchgeo", *RIVALS), 1))

    def start(self) -> Iterator[Row]:
        """From `patchstore.open` to the first batch, in a fresh process each time; imports are done."""
        uri = bench_start.many_scenes(self.folder, self.uri)
        figures = [self._measured("first", uri) for _ in range(min(3, self.settings.repetitions))]
        parts = {name: statistics.median(figure[name] for figure in figures) for name in figures[0]}
        self.notes.append("first batch: " + ", ".join(f"{name} {value:.2f} s" for name, value in parts.items()))
        yield Row(what=f"seconds to the first batch, {bench_start.SCENES} scenes", against="", wanted=2, at_most=True,
                  ratios=tuple(sum(figure.values()) for figure in figures))

    def memory(self) -> Iterator[Row]:
        """What the process that trains, and each that reads for it, take above their imports."""
        figures = self._measured("memory", self.uri)
        self.notes.append("memory, MB: " + ", ".join(f"{name} {value:.0f}" for name, value in figures.items()))
        for who in ("rank", "reader"):
            peaks = [figures[f"{who}, epoch {epoch}"] for epoch in range(1, bench_start.EPOCHS + 1)]
            yield Row(what=f"MB of a {who} above imports, most in {len(peaks)} epochs", against="", wanted=300,
                      at_most=True, ratios=(max(peaks),))
            yield Row(what=f"MB that a {who} gains from the first epoch to the last", against="", wanted=GAIN_MB,
                      at_most=True, ratios=(peaks[-1] - peaks[0],))

    def device(self) -> Iterator[Row]:
        """Training against training on one batch that stays on the device."""
        figures = self._measured("device", self.uri)
        if not figures:
            self.notes.append("device: no CUDA device here; rows left out")
            return
        self.notes.append(f"device: {figures['patches/s']:.0f} patches/s, one batch again and again "
                          f"{figures['held patches/s']:.0f}")
        what = "U-Net/ResNet-18, 256 px, "
        yield Row(what=what + "share of time waiting for data", against="", wanted=0.03, at_most=True,
                  ratios=(figures["waiting"],))
        yield Row(what=what + "throughput", against="one batch held on the device", wanted=0.95,
                  ratios=(figures["patches/s"] / figures["held patches/s"],), ours=figures["patches/s"],
                  theirs=figures["held patches/s"], unit="patches/s")

    def _measured(self, task: str, uri: str) -> dict[str, float]:
        (self.folder / "logs").mkdir(exist_ok=True)
        return bench_start.measured(task, uri, self.folder / "logs" / f"{task}.log")

    def _rivals(self, size: int, stride: int, wanted: Mapping[str, float]) -> Iterator[Row]:
        """Speed, bytes and seconds of the ways that there are."""
        exports = self._exports(size, stride)
        tiled = str(self.folder / "tiled")
        specs = {"ours": Spec(way="ours", source=self.uri, size=size, stride=stride),
                 "torchgeo": Spec(way="torchgeo", source=tiled, size=size)}
        for form, exported in exports.items():
            specs[form] = Spec(way=way_of(form), source=str(exported.folder), size=size)
        rates = self._race(specs)
        what = f"{size} px, stride {stride}"
        names = {"torchgeo": "TorchGeo RandomGeoSampler, DataLoader", **RIVALS}
        for name in specs:
            if name != "ours":
                yield versus(f"{what}, flips", names[name], wanted[name], rates["ours"], rates[name])
        store_mb = folder_mb(Path(self.uri))
        for form, exported in exports.items():
            yield Row(what=f"{what}, on disk, over ours", against=names[form], wanted=None, unit="MB",
                      ratios=(exported.mb / store_mb,), ours=store_mb, theirs=exported.mb)
            yield Row(what=f"{what}, export over our ingest", against=names[form], wanted=None, unit="s",
                      ratios=(exported.seconds / self._ingest_s,), ours=self._ingest_s, theirs=exported.seconds)

    def _exports(self, size: int, stride: int) -> dict[Form, Exported]:
        """The plan's patches in each other form, or the first of them where they overlap, and what all would take."""
        plan = plan_of(patchstore.open(self.uri), size, stride)
        count = len(plan) if stride >= size else min(EXPORTED, len(plan))
        if count < len(plan):
            self.notes.append(f"{size} px, stride {stride}: the exports hold {count:,} of {len(plan):,} patches; their "
                              f"time and bytes are times {len(plan) / count:.3g}")
        places = self.folder / f"places_{size}_{stride}.json"
        places.write_text(json.dumps([(window.scene, window.row, window.col)
                                      for window in plan.windows(np.arange(count))]))
        exports = {}
        for form in self._forms():
            export = Export(form=form, raw=str(self.folder / "raw"), places=str(places), size=size,
                            out=str(self.folder / "exported" / f"{form}_{size}_{stride}"))
            exported = export_once(export, self._python(way_of(form)))
            exports[form] = replace(exported, seconds=exported.seconds * len(plan) / count,
                                    mb=exported.mb * len(plan) / count)
        return exports

    def _race(self, specs: Mapping[str, Spec]) -> dict[str, list[float]]:
        """Rates by way and repetition."""
        with ExitStack() as stack:
            served = {name: stack.enter_context(Served(spec, self._python(spec.way), self.settings.seconds,
                                                       self.folder / "logs" / f"{name}.log"))
                      for name, spec in specs.items()}
            for way in served.values():
                way.wait()
            rates = race(served, self.settings.repetitions)
            for name, way in served.items():
                self.notes.append(f"{specs[name].size} px, {name}: {statistics.median(rates[name]):,.0f} patches/s on "
                                  f"{way.cores:.2f} cores")
        return rates

    def _forms(self) -> Sequence[Form]:
        if self.settings.python is None:
            self.notes.append("no --python: LitData and MosaicML Streaming left out")
            return ("png",)
        return tuple(RIVALS)

    def _python(self, way: str) -> Path:
        chosen = self.settings.python if way in ("litdata", "mosaic") else None
        return chosen or Path(sys.executable)

    @cached_property
    def _ingest_s(self) -> float:
        """Seconds that an ingest of all scenes takes, by that of one."""
        out = self.folder / "ingested"
        shutil.rmtree(out, ignore_errors=True)
        began = time.perf_counter()
        bench_inputs.ingest(str(out), "scene_0", *bench_inputs.files(self.folder, "striped", "scene_0"))
        seconds = time.perf_counter() - began
        shutil.rmtree(out)
        return seconds * self.settings.scenes


def main() -> None:
    """Measure, print, and write the figures down."""
    settings = tyro.cli(Settings, description=__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(settings, settings.keep or Path(temporary))
        parts = {"overhead": bench.overhead, "px256": bench.px256, "px512": bench.px512, "start": bench.start,
                 "memory": bench.memory, "device": bench.device}
        rows = [row for name in settings.only for row in parts[name]()]
    show("{} scenes of {} x {} px, ".format(settings.scenes, *settings.shape)
         + f"medians of {settings.repetitions} interleaved repetitions", rows, bench.notes)
    if settings.json is not None:
        write_figures(settings.json, asdict(settings), rows, bench.notes, VERSIONS)


if __name__ == "__main__":
    main()
