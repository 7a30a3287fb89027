"""Say what a run will see, how well it can do at best, and what it will take, before it is started.

swath plan RECIPE --data.store URI [any field] [--bench] [--sheet FILE.png] [--json]
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from patchstore import Store
from swath.commands.command_line import TRAINING, every_field, finish, read_configured
from swath.commands.paths import absolute_config
from swath.config import Config
from swath.errors import ConfigError, DataError
from swath.experiments import forecast, pace
from swath.experiments import sheets as sheet
from swath.experiments.forecast import Forecast, Work
from swath.experiments.prepare import with_absolute_paths
from swath.patches import certificate, overview, planning
from swath.patches.planning import PatchPlan
from swath.report import plan_tables
from swath.runtime import choose_device, use_threads
from swath.scoring import ceiling
from swath.splits.division import Split, SplitName
from swath.training.prepared import Prepared

USES = {**TRAINING, "train": every_field("train", without=("resume",)),
        "cluster": ("workers", "device", "cpus", "readers"), "track": ()}
"""Fields of a configuration that a plan uses: nothing runs on a cluster, and nothing is recorded."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of the job."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    measure: bool = True
    """Time a few training steps and scored windows of the network on random pixels. Without, none is built."""
    ceiling: float = 100.0
    """Most megapixels of validation labels that the ceiling of IoU is taken from; 0: it is left out. With 0 and without
    measuring, no pixel and no label is read."""
    bench: bool = False
    """Measure how fast patches are read, augmented and collated."""
    device_rate: float = 0.0
    """Patches a second of the device that the bench is to feed; 0: what was measured of the network here."""
    sheet: Path | None = None
    """PNG to draw: a few train patches and their labels under each augmentation."""
    json: bool = False
    """Print one JSON object as the last line: store, patches, classes, certificate, ceiling, work, forecast, bench,
    notes."""

    def check(self) -> None:
        """Raise ConfigError for arguments that make no sense. Not at construction: tyro would cut the message."""
        for name in ("ceiling", "device_rate"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: must be 0 or more, got {getattr(self, name)}")
        if self.bench and not self.measure and not self.device_rate:
            raise ConfigError("device_rate: --bench needs the device's patches a second where nothing is measured; "
                              "give --device-rate N, or leave --no-measure out")


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    arguments = read_configured(Arguments, argv, USES)
    arguments.check()
    config, store = with_absolute_paths(absolute_config(arguments.config))
    out, prepared = Console(soft_wrap=True, highlight=False), Prepared.of(config, store)
    split = prepared.split
    plans, notes = _plans(prepared)
    if arguments.sheet:
        notes += sheet.draw(arguments.sheet, store, config, plans["train"])
    result = _from_the_plan(out, store, config, split, plans, notes)
    if arguments.ceiling:
        top = ceiling.ceiling(store, split, "val", plans["val"], most_megapixels=arguments.ceiling)
        out.print(plan_tables.ceiling(top))
        result["ceiling"] = top.to_json()
    work = forecast.work(prepared)
    out.print(plan_tables.work(work))
    result["work"] = asdict(work)
    if arguments.measure or arguments.bench:
        result |= _measured(out, prepared, arguments, work)
    if arguments.sheet:
        out.print(f"sheet {arguments.sheet}", markup=False)
    finish(arguments.json, {"store": store.uri, **result})


def _plans(prepared: Prepared) -> tuple[dict[SplitName, PatchPlan], list[str]]:
    """The plan of each split that has cells, and notes. A run needs no test patches, so none is worth a note only."""
    split, notes = prepared.split, [*prepared.split.notes]
    plans: dict[SplitName, PatchPlan] = {"train": prepared.plan, "val": prepared.val_plan}
    if any(split.scenes("test")):
        try:
            plans["test"] = planning.plan(prepared.store, prepared.config, "test", labels=split)
        except DataError as error:
            notes.append(str(error))
    return plans, list(dict.fromkeys([*notes, *(note for plan in plans.values() for note in plan.notes)]))


def _from_the_plan(out: Console, store: Store, config: Config, split: Split, plans: dict[SplitName, PatchPlan],
                   notes: list[str]) -> dict[str, Any]:
    """What needs no pixel: patches, classes, certificate."""
    rows = [row for name, plan in plans.items() for row in overview.rows(store, name, plan)]
    out.print(plan_tables.patches(rows, config.patches.size, notes))
    shares = overview.shares(store, split, plans["train"])
    out.print(plan_tables.classes(shares, config.patches.placement_scales))
    certified = certificate.certify(store, split, plans)
    out.print(plan_tables.certificate(certified))
    return {"patches": [asdict(row) for row in rows], "classes": [asdict(share) for share in shares], "notes": notes,
            "certificate": {**json.loads(certified.to_json()), "clean": certified.clean,
                            "findings": certified.findings()}}


def _measured(out: Console, prepared: Prepared, arguments: Arguments, work: Work) -> dict[str, Any]:
    """What has to be timed: the forecast, and the bench."""
    config = prepared.config
    use_threads(config.cluster.cpus)
    setup, result, rate = forecast.one_worker(prepared, choose_device(config.cluster.device)), {}, 0.0
    if arguments.measure:
        found = Forecast(work=work, trial=forecast.trial(setup), workers=config.cluster.workers,
                         checkpoints=config.train.keep + 1)
        out.print(plan_tables.forecast(found))
        result["forecast"], rate = found.to_json(), found.trial.rate
    if arguments.bench:
        paced = pace.measure(setup, arguments.device_rate or rate)
        out.print(plan_tables.pace(paced))
        result["bench"] = paced.to_json()
    return result
