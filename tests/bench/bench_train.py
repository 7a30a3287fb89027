"""What a training step costs, and what the loop adds to a bare forward and backward pass.

    PYTHONPATH=platform:storage:jobs python tests/bench/bench_train.py                              two cores, minutes
    PYTHONPATH=platform:storage:jobs python tests/bench/bench_train.py --device cuda --networks unet:resnet18 \\
        deeplabv3plus:efficientnet-b5 --sizes 256 512 1024 --batch 16 --variants all --steps 30     a GPU

For each network, patch size and variant (arithmetic, layout, compilation): patches/s of the loop's own step over a
batch that is held on the device, over those of a bare one (forward, cross-entropy, backward, optimiser) over the same
batch, both in turn; and the most memory that the device had in use. --fit SIZE BATCH finds how many patches of a size
fit the device at once (`micro_batch: auto`). Needs no Ray and no MLflow.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional

import bench_race
import patchstore
from bench_race import Row
from patchstore import Store
from patchstore.testing import CLASSES, make_dataset
from swath.config import (
    AugmentConfig,
    ClusterConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    PatchesConfig,
    TrainConfig,
)
from swath.experiments import ingest
from swath.loading.loader import Batch
from swath.runtime import choose_device
from swath.training import loop
from swath.training.context import LocalContext
from swath.training.prepared import Prepared
from swath.training.setup import TrainingSetup
from swath.training.state import State


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to compute a step."""

    network: str
    size: int
    precision: str
    channels_last: bool
    compile: bool

    def config(self, batch: int) -> Config:
        """A configuration with it."""
        arch, _, encoder = self.network.partition(":")
        return Config(
            patches=PatchesConfig(size=self.size), augment=AugmentConfig(pipeline="none"),
            model=ModelConfig(arch=arch, encoder=encoder), loss=LossConfig(cross_entropy=1),
            train=TrainConfig(batch=batch, micro_batch=batch, precision=self.precision,  # type: ignore[arg-type]
                              channels_last=self.channels_last, compile=self.compile, clip=0, warmup=0),
            cluster=ClusterConfig(readers=0))

    def __str__(self) -> str:
        layout = ", channels last" if self.channels_last else ""
        return f"{self.network} {self.size} px {self.precision}{layout}{', compiled' if self.compile else ''}"


def bare_step(job: TrainingSetup, state: State, train: torch.nn.Module, batch: Batch) -> None:
    """A step without anything but its arithmetic."""
    with job.autocast():
        logits_NKHW = train(batch.images_NSBHW)
    loss = functional.cross_entropy(logits_NKHW.float(), batch.labels_NHW.long(), ignore_index=job.store.ignore)
    torch.autograd.backward(loss)
    state.optimiser.step()
    state.optimiser.zero_grad(set_to_none=True)


def measure(variant: Variant, store: Store, folder: Path, arguments: argparse.Namespace) -> list[Row]:
    """The loop's rate over the bare one's, and the peak of memory."""
    device = choose_device(arguments.device)
    job = TrainingSetup(Prepared.of(variant.config(arguments.batch), store), LocalContext(folder, device))
    state = job.start()
    train = job.network(state)
    (batch,) = job.loader.batches(0, 1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def steps(step: Callable[[TrainingSetup, State, torch.nn.Module, Batch], object]) -> bench_race.Way:
        def work() -> None:
            for _ in range(arguments.steps):
                state.step = 0
                step(job, state, train, batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return lambda repetition: (arguments.batch * arguments.steps, work)

    rates = bench_race.race({"loop": steps(loop.train_step), "bare": steps(bare_step)},  # type: ignore[arg-type]
                            arguments.repetitions)
    rows = [bench_race.versus(str(variant), "bare step", 0.95, rates["loop"], rates["bare"])]
    if device.type == "cuda":
        peak_mb = torch.cuda.max_memory_allocated(device) / 2**20
        rows.append(Row(what=f"{variant}, peak", against="", wanted=None, ratios=(peak_mb,), ours=peak_mb, unit="MB"))
    return rows


def fit(network: str, size: int, batch: int, store: Store, folder: Path, device: str) -> str:
    """How many patches `micro_batch: auto` finds to fit."""
    variant = Variant(network=network, size=size, precision="auto", channels_last=True, compile=False)
    config = variant.config(batch)
    job = TrainingSetup(Prepared.of(replace(config, train=replace(config.train, micro_batch="auto")), store),
                        LocalContext(folder, choose_device(device)))  # type: ignore[arg-type]
    job.start()
    return f"{network} {size} px, batch {batch}: {job.micro.most} patches at once"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--networks", nargs="+", default=["unet:resnet18"], help="ARCH:ENCODER")
    parser.add_argument("--sizes", nargs="+", type=int, default=[256])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--variants", choices=["default", "all"], default="default")
    parser.add_argument("--steps", type=int, default=3, help="in each repetition")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--fit", nargs=2, type=int, metavar=("SIZE", "BATCH"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    ways = ([("auto", True, False)] if arguments.variants == "default" else
            list(itertools.product(("fp32", "bf16"), (False, True), (False, True))))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        side = 2 * max([*arguments.sizes, *(arguments.fit or [])[:1]])
        make_dataset(folder / "data", scenes=3, size=side, groups=3)
        data = DataConfig(classes=CLASSES, source=str(folder / "data"), store=str(folder / "store.zarr"),
                          group=r"^(g\d+)_")
        ingest.run(data, ingest.one_by_one)
        store = patchstore.open(data.store)
        rows = [row for network, size in itertools.product(arguments.networks, arguments.sizes)
                for precision, channels_last, compiled in ways
                for row in measure(Variant(network=network, size=size, precision=precision, channels_last=channels_last,
                                           compile=compiled), store, folder, arguments)]
        notes = [fit(network, *arguments.fit, store, folder, arguments.device) for network in arguments.networks
                 ] if arguments.fit else []
    bench_race.show(f"batch {arguments.batch}, medians of {arguments.repetitions} interleaved repetitions", rows, notes)
    if arguments.json:
        bench_race.write_figures(arguments.json, vars(arguments), rows, notes,
                                 ("torch", "timm", "segmentation-models-pytorch"))


if __name__ == "__main__":
    main()
