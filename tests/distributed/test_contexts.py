"""The contexts of a training loop keep one contract: in this process, and as a worker of Ray Train."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from swath.config import Config
from swath.distributed.connection import connected
from swath.distributed.context import RayContext, WorkerTask
from swath.models import checkpoint_files
from swath.say import Metrics
from swath.tracking import mlflow_store
from swath.training.context import Context, LocalContext

Answers = dict[str, Any]
Met = tuple[Answers, list[dict[str, float]], str]
"""What a loop was answered, what was reported of it, and the remarks."""
OTHERS = dict.fromkeys(
    ("train/loss", "val/loss", "val_part/miou_se", "speed/patches_per_s", "speed/waiting_share"), 0.0)
"""What a loop reports besides."""
CONFIG = replace(Config(), train=replace(Config().train, keep=1))


def meet(context: Context, folder: Path, ask: Callable[[], object]) -> Answers:
    """Use a context as the loop does, in a run of 4 megapixels; its answers as plain values.

    `folder` is where it keeps checkpoints; `ask` asks the run to end.
    """
    answers: Answers = {"worker": (context.rank, context.world_size, context.device.type),
                        "before": (context.resume, context.newest, context.save_due(), context.stop(0.0))}
    newest = []
    best = _saved(folder.parent / "best")
    context.report({"megapixels": 1.0, "val_part/miou": 0.5, **OTHERS}, best)
    newest.append(context.newest)
    context.report({"megapixels": 2.0, "val_part/miou": 0.25, **OTHERS}, _saved(folder.parent / "worse"))
    newest.append(context.newest)
    context.save(_saved(folder.parent / "between"), 3.0)
    newest.append(context.newest)
    context.report({"megapixels": 4.0, "val_part/miou": 0.125, **OTHERS}, None)
    newest.append(context.newest)
    answers["newest"] = [str(place.relative_to(folder)) for place in newest if place is not None]
    answers["kept"] = {path.name: (path / "config.json").read_text() for path in folder.glob("kpx*")}
    context.note("the ground is wet")
    ask()
    time.sleep(1.2)  # a worker looks once a second
    answers["asked"] = (context.stop(4.0), context.save_due())
    return answers


def _saved(folder: Path) -> Path:
    """A folder that passes for a checkpoint."""
    folder.mkdir()
    for name in checkpoint_files.FILES:
        (folder / name).write_text(f"{name} of {folder.name}")
    checkpoint_files.seal(folder)
    return folder


def told(metrics: Metrics) -> dict[str, float]:
    """What the tests look at of a report."""
    return {name: metrics[name] for name in ("megapixels", "val_part/miou")}


def in_this_process(folder: Path) -> Met:
    asked: list[bool] = []
    reports: list[dict[str, float]] = []
    notes: list[str] = []
    context = LocalContext(folder, torch.device("cpu"), keep=1, told=lambda: bool(asked), note=notes.append,
                           listeners=(lambda metrics: reports.append(told(metrics)),))
    answers = meet(context, folder, lambda: asked.append(True))
    return answers, reports, "\n".join(notes)


def in_a_worker(folder: Path) -> Met:
    location = mlflow_store.prepare(folder.parent)
    tracker = mlflow_store.MlflowTracker.start(location.uri, experiment="contexts", name="run", params={}, tags={},
                                               artifact_location=location.artifact_location)
    order = WorkerTask(config=CONFIG.to_json(), folder=str(folder), resume="", cpus=1, tracking_uri=location.uri,
                  run_id=tracker.run_id)
    order.stop_file.write_bytes(b"")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this module
    with connected(cpus=2):
        trainer = TorchTrainer(_work, train_loop_config={"order": order}, scaling_config=ScalingConfig(num_workers=1),
                               run_config=RunConfig(name="worker", storage_path=str(folder.parent)))
        answers = trainer.fit().return_value
    tracker.end("FINISHED")
    record = mlflow_store.find(location.uri, tracker.run_id)
    seen = mlflow_store.metric_history(location.uri, tracker.run_id, "megapixels")
    part = dict(mlflow_store.metric_history(location.uri, tracker.run_id, "val_part/miou"))
    reports = [{"megapixels": megapixels, "val_part/miou": part[step]} for step, megapixels in seen if step in part]
    return answers, reports, " ".join(record.tags.values())


def _work(settings: dict[str, Any]) -> Answers:
    order: WorkerTask = settings["order"]
    return meet(RayContext(order, CONFIG), Path(order.folder), lambda: order.stop_file.write_bytes(b"stop"))


@pytest.fixture(scope="module", params=[in_this_process, in_a_worker])
def met(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
        ) -> Met:
    folder = tmp_path_factory.mktemp("met") / "run"
    folder.mkdir()
    return request.param(folder)


def test_a_single_worker_is_the_first_of_one(met: Met) -> None:
    assert met[0]["worker"] == (0, 1, "cpu")
    assert met[0]["before"] == (None, None, False, False)


def test_the_newest_checkpoint_is_known(met: Met) -> None:
    assert met[0]["newest"] == ["kpx000000001000", "kpx000000002000", "kpx000000003000", "kpx000000003000"]


def test_copies_of_the_best_and_the_newest_are_kept(met: Met) -> None:
    assert met[0]["kept"] == {"kpx000000001000": "config.json of best", "kpx000000003000": "config.json of between"}


def test_a_run_that_is_asked_to_end_is_told(met: Met) -> None:
    assert met[0]["asked"] == (True, False)


def test_reports_and_remarks_arrive(met: Met) -> None:
    _, reports, notes = met
    assert reports == [{"megapixels": 1.0, "val_part/miou": 0.5}, {"megapixels": 2.0, "val_part/miou": 0.25},
                       {"megapixels": 4.0, "val_part/miou": 0.125}]
    assert "the ground is wet" in notes
