"""One experiment from a configuration to a recorded, scored model: what `jobs/train.py` does.

Everything that can be wrong is looked at before a cluster is asked for. A run is recorded from its first moment and
always ends with a true status: FINISHED, FAILED with the reason, or KILLED.
"""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

import patchstore
from patchstore import Store
from swath import figures
from swath.config import Config
from swath.errors import ConfigError, TrainingError
from swath.loading.augment import Augment
from swath.models import checkpoint, inference, network, transfer
from swath.patches import certificate, planning
from swath.runtime import choose_device, use_threads
from swath.say import Listener, ReportLine, tell
from swath.scoring import counting
from swath.scoring.result import Score
from swath.splits import division
from swath.splits.division import Split
from swath.tracking import mlflow_store, provenance, runs
from swath.tracking.mlflow_store import MlflowTracker, Tracker
from swath.training import loop, losses, signals
from swath.training.context import LocalContext
from swath.training.setup import micro_batches


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """A finished training."""

    run_id: str
    run: loop.Run
    location: mlflow_store.Location
    score: Score
    """Of the validation split."""
    seconds: float


class Fit(Protocol):
    """Runs the training loop somewhere: in this process, or on a cluster (`distributed.runners.trainer` chooses)."""

    def __call__(self, config: Config, store: Store, folder: Path, tracker: Tracker, uri: str, /) -> loop.Run:
        """Run the loop, with checkpoints in `folder`, its reports going to `tracker` of the tracking store `uri`."""


def fit_in_process(config: Config, store: Store, folder: Path, tracker: Tracker, uri: str) -> loop.Run:
    """Run the loop in this process, with one line a report on standard error. A `Fit`.

    Raises ValueError for a configuration of several workers or of a cluster.
    """
    if config.cluster.workers > 1 or config.cluster.address:
        raise ValueError("this process is one worker; pass fit=swath.distributed.runners.trainer(config)")
    return fit_here(config, store, folder, tracker, ReportLine())


def train(config: Config, workdir: Path, *, tags: Mapping[str, str] | None = None,
          fit: Fit = fit_in_process, run_id: str = "") -> Outcome:
    """Train, score and record one model; checkpoints and the default tracking store lie below `workdir`.

    fit: where the loop runs; `distributed.runners.trainer(config)` chooses between this process and Ray Train.
    run_id: the run to go on with, of the same configuration, which has not finished; empty: a new one.

    Raises ConfigError, DataError, CheckpointError or a PatchstoreError before anything is started where the
    configuration, the store, the tracking store or what is to be resumed cannot serve, and TrainingError when the run
    itself fails. A run that a signal tells to end is saved and recorded as KILLED before SystemExit is raised, or
    KeyboardInterrupt for SIGINT.
    """
    began, workdir = time.perf_counter(), workdir.resolve()
    config, store = placed(config)
    if fit is fit_in_process:
        choose_device(config.cluster.device)
    location = mlflow_store.prepare(workdir, config.track.uri)
    if run_id and checkpoint.newest(runs.checkpoints(workdir, run_id)):  # of no use any more, and perhaps gone
        config = replace(config, model=replace(config.model, init_from=""))
    config = runs.with_folders(config, workdir, location.uri)
    costs = check(config, store)
    if run_id:
        tracker = runs.reopened(run_id, config, location)
    else:
        tracker = MlflowTracker.start(
            location.uri, experiment=config.track.experiment, name=config.track.name or run_name(config),
            artifact_location=location.artifact_location, params=config.flat(), tags=tags or {})
    run, result = record(config, store, workdir, tracker, location, fit, costs)
    return Outcome(run_id=tracker.run_id, run=run, location=location, seconds=time.perf_counter() - began, score=result)


def record(config: Config, store: Store, workdir: Path, tracker: Tracker, location: mlflow_store.Location, fit: Fit,
           costs: Mapping[str, float]) -> tuple[loop.Run, Score]:
    """Train, score and draw what a record has been begun for, and end that; an interrupted one goes on.

    The configuration is one that was placed and checked, which gave its costs.
    Raises TrainingError when the run fails, and what the loop raises.
    """
    with ended_truly(tracker), provenance.noted(tracker.note):
        split = division.divide(store, config.split)
        _describe(config, store, split, tracker)
        tracker.log(costs, 0.0)
        folder = runs.checkpoints(workdir, tracker.run_id)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            run = fit(config, store, folder, tracker, location.uri)
        finally:  # what a failed run has saved can still be used
            if newest := checkpoint.newest(folder):
                tracker.tags({mlflow_store.CHECKPOINT_TAG: str(newest)})
        if not newest and run.checkpoint:  # a finished one, that was named as the one to go on from
            tracker.tags({mlflow_store.CHECKPOINT_TAG: str(run.checkpoint)})
        if run.counts_RKQ is None:
            raise TrainingError(f"the run was stopped at {run.megapixels:.3f} Mpx, before its end; its checkpoint is "
                                f"{run.checkpoint}")
        result = counting.score_of(store, split, "val", config, run.counts_RKQ)
        _draw(config, store, split, run, result, tracker)
        return run, result


def open_store(config: Config) -> Store:
    """The store of a configuration. Raises ConfigError when none is named, and what patchstore.open raises."""
    if not config.data.store:
        raise ConfigError("data.store: no store is named; give --data.store URI (jobs/ingest.py makes one)")
    return patchstore.open(config.data.store, merge=config.data.merge)


def placed(config: Config) -> tuple[Config, Store]:
    """The configuration with absolute paths (workers, and whoever reads the record, have other working directories),
    and its store. Raises what `open_store` does."""
    store, weights = open_store(config), config.model.weights
    if Path(weights).is_file():
        weights = str(Path(weights).resolve())
    config = replace(config, data=replace(config.data, store=store.uri), model=replace(config.model, weights=weights))
    return config, store


def run_name(config: Config) -> str:
    """A name that tells runs apart at a glance: unet-resnet18-256x1, …x1+4 for a mixture, …x1&4 for concentric ones."""
    scales = ("&" if config.patches.together else "+").join(f"{scale:g}" for scale in config.patches.scales)
    return f"{config.model.arch}-{config.model.encoder}-{config.patches.size}x{scales}"


@contextmanager
def ended_truly(tracker: Tracker) -> Iterator[None]:
    """End a run with what really happened in the block."""
    try:
        yield
    except BaseException as error:
        tracker.end("FAILED" if isinstance(error, Exception) else "KILLED", reason(error))
        raise
    tracker.end("FINISHED")


def reason(error: BaseException) -> str:
    """Why something ended: an error, an interrupt, or the exit that a signal asks for."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted" if isinstance(error, KeyboardInterrupt) else "told to end by a signal"
    return f"{type(error).__name__}: {error}"


def fit_here(config: Config, store: Store, folder: Path, tracker: Tracker, listener: Listener) -> loop.Run:
    """Run the loop in this process, from the newest checkpoint in its folder where there is one.

    Told to end by a signal, it saves first, and raises SystemExit or KeyboardInterrupt.
    """
    use_threads(config.cluster.cpus)
    device = choose_device(config.cluster.device)
    tracker.tags({"swath.device": device.type, "swath.machine": json.dumps(provenance.machine())})
    begins = checkpoint.beginning(folder, config.train.resume)
    tell((*begins.damaged, begins.said))
    for damaged in begins.damaged:
        tracker.note(damaged)
    with signals.heeded() as told:
        context = LocalContext(folder, device, keep=config.train.keep, save_minutes=config.train.save_minutes,
                               resume=begins.checkpoint, told=lambda: bool(told),
                               listeners=(mlflow_store.reporter(tracker), listener), note=tracker.note)
        run = loop.fit(config, store, context)
    if run.counts_RKQ is None:
        told.leave()
    return run


def _describe(config: Config, store: Store, split: Split, tracker: Tracker) -> None:
    """Record what a run is made with."""
    plan, val_plan = (planning.plan(store, config, name, labels=split) for name in ("train", "val"))
    certified = certificate.certify(store, split, {"train": plan})
    remarks = list(dict.fromkeys([*split.notes, *certified.findings(), *plan.notes, *val_plan.notes]))
    tell(remarks)
    protocol = counting.protocol(store, split, "val", config)
    tracker.tags({**protocol.tags(), "swath.certificate": certified.to_json(), "swath.code": provenance.code(),
                  "swath.commit": provenance.commit() or "", "swath.store": store.uri,
                  "swath.fingerprint": store.fingerprint, "swath.config": config.digest()})
    tracker.note("\n".join(remarks))
    tracker.text(config.to_json(), "config.json")
    tracker.text(json.dumps(provenance.environment(), indent=2), "environment.json")
    tracker.text(protocol.to_json(), "protocol.json")


def check(config: Config, store: Store) -> dict[str, float]:
    """What is known of a run's cost ahead of it. Raises ConfigError or DataError for what is wrong with it."""
    split = division.divide(store, config.split)
    check_parts(config, store, split)
    plan = planning.plan(store, config, "train", labels=split)
    traits = network.DataTraits(bands=store.bands, classes=len(store.classes), dtype=store.dtype,
                                mean_B=np.zeros(store.bands), std_B=np.ones(store.bands))
    net = network.build(config.model, traits, combine=config.patches.combine, scales=config.patches.scales)
    if config.model.init_from:
        transfer.begin(net, config, checkpoint.Card.of(store))
    cost = network.cost(net, config.patches.size, store.bands)
    return {"model/parameters": cost.parameters, "model/gmacs_per_megapixel": cost.gmacs_per_mpx,
            "plan/patches": len(plan), "plan/megapixels": plan.megapixels}


def check_parts(config: Config, store: Store, split: Split) -> None:
    """Raise ConfigError or DataError for what is seen to be wrong with a configuration without building its network."""
    network.check(config.model, config.patches.size)
    planning.plan(store, config, "train", labels=split)
    planning.plan(store, config, "val", labels=split)
    for scene, _ in split.scenes("test"):  # no patches are needed there, but it is to be scored
        planning.factors(config.patches, store.scenes[scene].pixel_m2, f"{store.uri}: scene {scene}")
    micro_batches(config, config.cluster.workers)
    losses.Loss(config.loss, len(store.classes), store.ignore)
    Augment(config.augment, size=config.patches.size, bands=store.bands, dtype=store.dtype,
            scales=config.patches.scales[:config.patches.at_once])
    counting.check_without(store, config)


def _draw(config: Config, store: Store, split: Split, run: loop.Run, result: Score, tracker: Tracker
          ) -> None:
    """Pictures of a run, as artifacts: curves, confusion matrix, and a sheet of predictions."""
    names = [info.name for info in store.classes]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        figures.curves(run.history, folder / "curves.png")
        figures.confusion(result.confusion, names, folder / "confusion.png")
        _draw_sheet(config, store, split, run, folder / "predictions.png")
        for path in sorted(folder.iterdir()):
            tracker.artifact(path)


def _draw_sheet(config: Config, store: Store, split: Split, run: loop.Run, path: Path, most: int = 4) -> None:
    """Image, label and prediction of a few blocks of the validation sample, spread over its strata."""
    assert run.checkpoint is not None
    device = choose_device("cpu" if config.cluster.device == "cpu" else "auto")
    forward = inference.network_forward(checkpoint.load(run.checkpoint).network(device),
                                      inference.precision(config.train.precision, device), config.score.symmetries)
    source = counting.network_source(store, forward, config, device)
    regions = counting.sample(store, split, "val", config).regions
    shapes = Counter(r.shape for r in regions)  # blocks at a scene's edge are smaller; pictures of a sheet are alike
    regions = [r for r in regions if r.shape == shapes.most_common(1)[0][0]]
    chosen = [regions[i] for i in np.unique(np.linspace(0, len(regions) - 1, most).round().astype(int))]
    images = [store.region(r.scene, "image", r.rows, r.cols) for r in chosen]
    labels = [counting.labels_of(store, r.scene, split.cells(r.scene, "val"), r.rows, r.cols) for r in chosen]
    with torch.inference_mode():
        predictions = [np.concatenate([rows for _, _, rows in source([region])]) for region in chosen]
    figures.sheet(np.stack(images), np.stack(labels), np.stack(predictions), [c.colour for c in store.classes], names=[
        c.name for c in store.classes], ignore=store.ignore, path=path,
        titles=[f"{r.scene} row {r.rows[0]} col {r.cols[0]}" for r in chosen])
