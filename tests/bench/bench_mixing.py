"""Whether training can tell the order from one that is random throughout.

    PYTHONPATH=jobs python tests/bench/bench_mixing.py --seeds 5

Trains the small network of the recipe `synthetic` on three generated scenes of 4,096 px, each twice from the same seed:
in the order, and in one where every epoch is a plain permutation. Windows overlap by half and a run is a fraction of an
epoch, so that lanes have seen few walks when it ends: what is hardest on the order. Scores are of a scene of its own.
The difference is noise where its mean is within twice its standard error, and small beside the spread between seeds.
"""

import argparse
import functools
import math
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import patchstore
from patchstore.testing import ORIGIN_M, write_scene
from swath import recipes
from swath.config import Config, SplitConfig
from swath.experiments import ingest
from swath.patches import ordering
from swath.patches.planning import PatchPlan
from swath.runtime import use_threads
from swath.training import loop
from swath.training.context import LocalContext

TRAIN_PX, VAL_PX = 4096, 1024
APART_M = 4096.0
"""East of one scene's corner lies the next one's: ground that no two share."""
ORDERS = ("walks", "random")


def make_store(folder: Path) -> str:
    """Three scenes to train on, one to validate on, and a small one for test, each a group of its own: the URI."""
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for number, side in enumerate((TRAIN_PX, TRAIN_PX, TRAIN_PX, VAL_PX, 256)):
        write_scene(folder / "images" / f"g{number}_s0.tif", folder / "masks" / f"g{number}_s0.tif", seed=3,
                    shape=(side, side), origin_m=(ORIGIN_M[0] + number * APART_M, ORIGIN_M[1]))
    uri = str(folder / "mixing.zarr")
    ingest.run(replace(recipes.synthetic().data, source=str(folder), store=uri), ingest.one_by_one)
    return uri


def config_of(uri: str, megapixels: float) -> Config:
    """The recipe on that store, with windows that overlap by half, reported once."""
    base = recipes.synthetic()
    return replace(
        base, data=replace(base.data, store=uri), split=SplitConfig(val=("g3",), test=("g4",)),
        patches=replace(base.patches, stride=base.patches.size // 2),
        train=replace(base.train, megapixels=megapixels, report_every=megapixels))


@functools.lru_cache(maxsize=2)
def permutation(plan: PatchPlan, seed: int, epoch: int, batch: int) -> NDArray[np.int32]:
    """An epoch that is random throughout, in place of `order.sequence`."""
    return np.random.default_rng((seed, epoch)).permutation(len(plan)).astype(np.int32)


@contextmanager
def ordered(name: str) -> Iterator[None]:
    """Train in one of the orders."""
    if name == "walks":
        yield
        return
    with patch.object(ordering, "sequence", permutation):
        yield


def score(config: Config, seed: int, name: str) -> float:
    """val/miou of one training."""
    config = replace(config, train=replace(config.train, seed=seed))
    with tempfile.TemporaryDirectory() as folder, ordered(name):
        run = loop.fit(config, patchstore.open(config.data.store), LocalContext(Path(folder), torch.device("cpu")))
    return run.metrics["val/miou"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="trainings in each order")
    parser.add_argument("--megapixels", type=float, default=12, help="length of each")
    options = parser.parse_args()
    use_threads(0)
    table = Table("seed", *ORDERS, "difference", title=f"val/miou after {options.megapixels:g} Mpx")
    found: list[tuple[float, ...]] = []
    with tempfile.TemporaryDirectory(prefix="swath-mixing-") as folder:
        config = config_of(make_store(Path(folder)), options.megapixels)
        for seed in range(options.seeds):
            found.append(tuple(score(config, seed, name) for name in ORDERS))
            table.add_row(str(seed), *(f"{miou:.4f}" for miou in found[-1]), f"{found[-1][0] - found[-1][1]:+.4f}")
    columns = [list(column) for column in zip(*found, strict=True)]
    columns.append([walks - random for walks, random in found])
    table.add_section()
    table.add_row("mean", *(f"{statistics.mean(column):.4f}" for column in columns))
    if options.seeds > 1:
        spread = [statistics.stdev(column) for column in columns]
        table.add_row("standard deviation", *(f"{value:.4f}" for value in spread))
        table.add_row("standard error", *(f"{value / math.sqrt(options.seeds):.4f}" for value in spread))
    Console().print(table)


if __name__ == "__main__":
    main()
