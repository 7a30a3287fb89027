"""jobs/plan.py as a user runs it, and the estimates behind it against the run that they speak of."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import image as images

from patchstore import Store
from support.commands import last_json
from swath import recipes
from swath.config import Config
from swath.experiments import forecast, pace
from swath.experiments.forecast import Forecast, Trial, Work
from swath.experiments.pace import Pace, Part
from swath.models import network
from swath.patches import overview, planning
from swath.scoring import counting
from swath.splits import division
from swath.training.prepared import Prepared
from swath.training.setup import TrainingSetup

JobHere = Callable[..., "subprocess.CompletedProcess[str]"]
SMALL = ("--model.arch", "pspnet", "--patches.size", 64, "--patches.combine", "mixture", "--patches.scales", 1, 2)
CLASSES = {"field", "building", "woodland", "water", "road"}


def small(**train: object) -> Config:
    config = recipes.synthetic()
    return replace(config, patches=replace(config.patches, size=64, scales=(1.0, 2.0), combine="mixture"),
                   model=replace(config.model, arch="pspnet"),
                   train=replace(config.train, **train))  # type: ignore[arg-type]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_CALLS", 1)
    monkeypatch.setattr(pace, "_BATCHES", 2)


def test_the_plan_is_told_without_a_pixel_or_a_network(job_here: JobHere, store: Store,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in ((Store, "read"), (Store, "region"), (network, "build")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("a pixel is read, or a network is built"))
    result = job_here("plan", "synthetic", "--data.store", store.uri, *SMALL, "--no-measure", "--ceiling", 0, "--json")
    said = last_json(result)
    plan = planning.plan(store, small(), "train")
    rows = {(row["split"], row["scale"]): row for row in said["patches"]}
    assert set(rows) == {(name, scale) for name in division.SPLITS for scale in (1.0, 2.0)}
    assert [rows["train", scale]["patches"] for scale in (1.0, 2.0)] == np.bincount(plan.scale_P).tolist()
    assert rows["train", 2.0]["side_px"] == [128, 128]
    assert rows["train", 2.0]["side_m"] == [32.0, 32.0]  # pixels of 0.25 m
    assert rows["train", 2.0]["bytes"] == rows["train", 2.0]["patches"] * 64 * 64 * 4
    assert sum(row["megapixels"] for row in said["patches"] if row["split"] == "train") == plan.megapixels
    assert {share["name"] for share in said["classes"]} == CLASSES
    for kind in ("cells", "patches", "drawn"):
        assert sum(share[kind] for share in said["classes"]) == pytest.approx(1)
    assert said["certificate"]["clean"]
    assert not {"ceiling", "forecast", "bench"} & said.keys()
    assert "32 m" in result.stdout


def test_what_the_certificate_finds_is_a_warning(job_here: JobHere, store: Store) -> None:
    result = job_here("plan", "synthetic", "--data.store", store.uri, *SMALL, "--split.by", "scene", "--no-measure",
                      "--ceiling", 0, "--json")
    findings = last_json(result)["certificate"]["findings"]
    assert any("touch" in finding for finding in findings)  # scenes of one group adjoin
    assert result.stdout.count("warning: ") == len(findings)


def test_everything_is_measured_told_and_drawn(job_here: JobHere, store: Store, tmp_path: Path, quick: None) -> None:
    sheet = tmp_path / "sheet.png"
    result = job_here("plan", "synthetic", "--data.store", store.uri, *SMALL, "--train.batch", 4, "--cluster.device",
                      "cpu", "--bench", "--device-rate", 1000, "--sheet", sheet, "--json")
    said = last_json(result)
    fine, coarse = said["ceiling"]["scales"]
    assert fine["miou"] == 1
    assert 0.5 < coarse["miou"] < 1
    assert said["ceiling"]["whole"]
    found, work, bench = said["forecast"], said["work"], said["bench"]
    assert found["training_s"] == pytest.approx(work["steps"] * found["step_s"])
    assert found["seconds"] == pytest.approx(
        found["training_s"] + work["reports"] * found["report_s"] + found["whole_s"])
    assert found["disk_bytes"] == 3 * found["checkpoint_bytes"]  # the newest two and the best
    assert "CPU" in found["machine"]
    assert bench["parts"].keys() == {"read", "augment", "collate"}
    assert bench["device_rate"] == 1000
    assert bench["cores"] == pytest.approx(sum(part["cpu_ms"] for part in bench["parts"].values()))
    assert bench["loader_rate"] > 0
    height, width = images.imread(sheet).shape[:2]
    assert height > 5 * 100  # a row for each augmentation
    assert width > 6 * 60
    for title in ("patches of 64 px", "overlap certificate", "ceiling of IoU", "time and disk", "the way of a patch"):
        assert title in result.stdout


@pytest.mark.parametrize(("arguments", "message"), [
    (("--bench", "--no-measure"), "--bench needs the device's patches a second"),
    (("--ceiling", -1), "ceiling: must be 0 or more"),
    (("--patches.min-foreground", 1, "--patches.background", *sorted(CLASSES)), "no train patch"),
])
def test_what_a_user_can_mend_is_one_line(job_here: JobHere, store: Store, arguments: tuple[object, ...],
                                          message: str) -> None:
    result = job_here("plan", "synthetic", "--data.store", store.uri, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("train", [{"megapixels": 0.5, "batch": 4, "report_every": 0.1}, {"epochs": 1.5, "batch": 8},
                                   {"megapixels": 0.1, "batch": 16, "report_every": 0.01},
                                   {"megapixels": 0.01, "batch": 16}])
def test_steps_and_reports_are_those_of_the_loop(store: Store, train: dict[str, float]) -> None:
    config = small(**train)
    split = division.divide(store, config.split)
    prepared = Prepared.of(config, store)
    plan, work = prepared.plan, forecast.work(prepared)
    wanted = config.train.megapixels or config.train.epochs * plan.megapixels
    step = config.train.batch * 64**2 / 1e6
    assert (work.steps - 1) * step < wanted <= work.steps * step + 1e-9 or work.steps == 1
    loop = SimpleNamespace(steps=work.steps, step_megapixels=step,
                           report_megapixels=counting.report_megapixels(store, split, config))
    assert work.reports == sum(TrainingSetup.is_due(loop, done) for done in range(1, work.steps + 1))  # type: ignore[arg-type]
    assert work.epochs == pytest.approx(work.megapixels / plan.megapixels)


def test_the_windows_of_a_score_are_those_that_are_predicted(store: Store) -> None:
    config = small()
    split = division.divide(store, config.split)
    val = planning.plan(store, config, "val", labels=split)
    for regions in (counting.whole(store, split, "val"), counting.sample(store, split, "val", config).regions):
        seen = 0

        def forward(images_NSBss: torch.Tensor) -> torch.Tensor:
            nonlocal seen
            seen += len(images_NSBss)
            return torch.zeros(len(images_NSBss), len(CLASSES), 64, 64)

        source = counting.network_source(store, forward, config, torch.device("cpu"))
        counting.count(store, split, "val", regions, source)
        assert sum(forecast.windows(store, regions, config, val)) == seen


def test_a_trial_weighs_what_a_run_would_save(store: Store, quick: None) -> None:
    config = small(batch=4, ema=0.1)
    config = replace(config, patches=replace(config.patches, scales=(2.0,), combine="single"),
                     model=replace(config.model, arch="unet"))  # every weight of which is trained
    job = forecast.one_worker(Prepared.of(replace(config, cluster=replace(config.cluster, workers=2)), store),
                              torch.device("cpu"))
    assert job.config.train.batch == 2
    trial = forecast.trial(job)
    parameters = sum(p.numel() for p in job.start().net.parameters())
    assert 1 <= trial.checkpoint_bytes / (4 * 4 * parameters) < 1.3  # weights, their average, two moments
    assert trial.step_patches == 2
    assert len(trial.window_s_S) == 1
    assert trial.cores is not None


def test_workers_share_the_scoring_and_not_the_steps() -> None:
    work = Work(steps=10, batch=8, megapixels=1, epochs=1, reports=2, sample_windows_S=(3, 1), loss_patches=4,
                whole_windows_S=(30, 10))
    trial = Trial(machine="a", step_s=2.0, step_patches=4, cores=None, window_s_S=(0.5, 1.0), checkpoint_bytes=100)
    found = Forecast(work=work, trial=trial, workers=2, checkpoints=3)
    assert found.training_s == 20
    assert found.report_s == (3 * 0.5 + 1.0 + 4 * 0.5) / 2
    assert found.whole_s == (30 * 0.5 + 10) / 2
    assert found.seconds == 20 + 2 * found.report_s + found.whole_s
    assert found.disk_bytes == 300
    assert trial.rate == 2


def test_cores_follow_from_processor_time() -> None:
    parts = {"read": Part(wall_ms=0.2, cpu_ms=0.3), "augment": Part(wall_ms=0.7, cpu_ms=0.7)}
    found = Pace(parts=parts, loader_rate=900, readers=2, device_rate=2500)
    assert found.core_rate == pytest.approx(1000)
    assert found.cores == pytest.approx(2.5)
    assert found.slowest == "augment"
    assert found.limit == "the loader, and of its parts augment"
    assert replace(found, device_rate=800).limit == "the device"


def test_shares_are_of_what_the_plan_says(store: Store) -> None:
    config = small()
    split = division.divide(store, config.split)
    plan = planning.plan(store, config, "train", labels=split)
    drawn_class_pixels_SK = np.zeros_like(plan.drawn_class_pixels_SK)
    drawn_class_pixels_SK[0, 1], drawn_class_pixels_SK[1, 2] = 30, 10
    shares = overview.shares(store, split, replace(plan, drawn_class_pixels_SK=drawn_class_pixels_SK))
    assert [share.drawn for share in shares] == [0, 0.75, 0.25, 0, 0]
    assert [share.drawn_by_scale for share in shares][1:3] == [(1.0, 0.0), (0.0, 1.0)]
    pixels_K = division.class_pixels(store, split, "train")
    assert [share.cells for share in shares] == pytest.approx((pixels_K / pixels_K.sum()).tolist())
