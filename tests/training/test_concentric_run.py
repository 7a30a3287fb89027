"""Concentric patches in a run: trained, resumed, scored, mapped, forecast and searched."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

import patchstore
from patchstore import ClassInfo, SceneSource, Store
from support.configs import CONCENTRIC
from swath.config import (
    AugmentConfig,
    ClusterConfig,
    LossConfig,
    ModelConfig,
    PatchesConfig,
    ScoreConfig,
    SplitConfig,
    TrainConfig,
)
from swath.errors import ConfigError
from swath.experiments import forecast
from swath.experiments.prepare import prepare
from swath.maps import apply
from swath.models import checkpoint, inference
from swath.scoring import counting
from swath.splits import division
from swath.training import loop
from swath.training.context import LocalContext
from swath.tuning import space


@pytest.fixture(scope="module")
def finished(store_uri: str, tmp_path_factory: pytest.TempPathFactory) -> loop.Run:
    context = LocalContext(tmp_path_factory.mktemp("run"), torch.device("cpu"), keep=5)
    return loop.fit(CONCENTRIC, patchstore.open(store_uri), context)


def test_a_run_counts_all_its_scales(finished: loop.Run) -> None:
    step = 4 * 2 * 64**2 / 1e6
    assert finished.megapixels == pytest.approx(4 * step)
    assert [m["step"] for m in finished.history] == [2, 4]
    assert finished.checkpoint is not None
    assert checkpoint.load(finished.checkpoint).network(torch.device("cpu")).scales == 2


def test_a_resumed_run_is_the_same_run(finished: loop.Run, store: Store, tmp_path: Path) -> None:
    assert finished.checkpoint is not None
    half = sorted(finished.checkpoint.parent.glob("*/"))[0]
    resumed = loop.fit(CONCENTRIC, store, LocalContext(tmp_path, torch.device("cpu"), resume=half))
    assert resumed.history[0]["step"] == 2
    np.testing.assert_array_equal(resumed.counts_RKQ, finished.counts_RKQ)
    assert resumed.metrics["val/loss"] == finished.metrics["val/loss"]


def test_a_written_map_recomputed_is_the_run_s_score(finished: loop.Run, store: Store, dataset: Path, tmp_path: Path
                                                     ) -> None:
    split = division.divide(store, CONCENTRIC.split)
    labels, mapped = [], []
    for name, _ in split.scenes("val"):
        apply.predict(apply.Request(run=str(finished.checkpoint), source=str(dataset / "images" / f"{name}.tif"),
                                    workdir=tmp_path, output=tmp_path / f"{name}.tif", overlap=CONCENTRIC.score.overlap,
                                    cluster=ClusterConfig(device="cpu")))
        for folder, to in ((dataset / "masks", labels), (tmp_path, mapped)):
            with rasterio.open(folder / f"{name}.tif") as file:
                to.append(file.read(1).ravel())
    counts_KK = confusion_matrix(np.concatenate(labels), np.concatenate(mapped), labels=range(len(store.classes)))
    found = counting.score_of(store, split, "val", CONCENTRIC, finished.counts_RKQ)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.confusion, counts_KK)
    union_K = counts_KK.sum(0) + counts_KK.sum(1) - counts_KK.diagonal()
    present_K = counts_KK.sum(1) > 0
    assert finished.metrics["val/miou"] == pytest.approx((counts_KK.diagonal() / union_K)[present_K].mean())


def test_the_ground_around_a_patch_changes_what_is_said_of_it(finished: loop.Run) -> None:
    assert finished.checkpoint is not None
    net = checkpoint.load(finished.checkpoint).network(torch.device("cpu"))
    images_NSBHW = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)
    other = images_NSBHW.clone()
    other[:, 1] = 255 - other[:, 1]
    forward = inference.network_forward(net)
    assert (forward(images_NSBHW) - forward(other)).abs().max() > 1e-3


def test_the_forecast_knows_the_windows_and_a_trial_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_SECONDS", 0.0)
    split = division.divide(store, CONCENTRIC.split)
    work = forecast.work(prepare(CONCENTRIC, store))
    assert (work.steps, work.reports) == (4, 2)
    seen = 0

    def forward(images_NSBss: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        assert images_NSBss.shape[1:] == (2, 3, 64, 64)
        seen += len(images_NSBss)
        return torch.zeros(len(images_NSBss), len(store.classes), 64, 64)

    regions = counting.whole(store, split, "val")
    counting.count(store, split, "val", regions,
                   counting.network_source(store, forward, CONCENTRIC, torch.device("cpu")))
    assert work.whole_windows_S == (seen,)
    trial = forecast.trial(forecast.one_worker(prepare(CONCENTRIC, store), torch.device("cpu")))
    assert len(trial.window_s_S) == 1


def test_a_runs_cost_is_known_and_a_wrong_size_is_refused(store: Store) -> None:
    costs = prepare(CONCENTRIC, store).costs
    assert costs["plan/megapixels"] == pytest.approx(costs["plan/patches"] * 2 * 64**2 / 1e6)
    alone = replace(CONCENTRIC, patches=PatchesConfig(size=64))
    assert 2 < costs["model/gmacs_per_megapixel"] / prepare(alone, store).costs["model/gmacs_per_megapixel"] < 2.5
    with pytest.raises(ConfigError, match=r"^patches\.size: pan over .* takes no patches of 32 pixels"):
        prepare(replace(CONCENTRIC, patches=replace(CONCENTRIC.patches, size=32),
                        model=ModelConfig(arch="pan", encoder="resnet18")), store)


@pytest.mark.parametrize(("point", "batch", "combine"), [
    ({"patches.scales": "1,2,4"}, 8, "concentric"), ({"patches.scales": "2"}, 24, "single"),
    ({"patches.scales": "1,2,4", "patches.combine": "mixture"}, 24, "mixture"),
    ({"patches.size": 32, "patches.scales": "1"}, 96, "single"),
    ({"patches.size": 128}, 3, "concentric"), ({"loss.dice": 0.5}, 12, "concentric")])
def test_a_search_s_batch_is_constant_in_pixels_of_all_scales(point: dict[str, Any], batch: int, combine: str) -> None:
    base = replace(CONCENTRIC, train=replace(CONCENTRIC.train, batch=12))
    found = space.place(base, point)
    assert (found.train.batch, found.patches.combine) == (batch, combine)


def test_the_plan_job_shows_every_scale(job_here: Callable[..., Any], store_uri: str, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = job_here("plan", "synthetic", "--data.store", store_uri, "--patches.size", 32, "--patches.stride", "None",
                      "--patches.scales", 1, 4, "--patches.combine", "concentric", "--no-measure", "--sheet", sheet,
                      "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    train = [row for row in told["patches"] if row["split"] == "train"]
    assert [(row["scale"], row["side_px"]) for row in train] == [(1, [32, 32]), (4, [128, 128])]
    assert train[0]["patches"] == train[1]["patches"] > 0
    assert train[0]["labelled"] > 0.9
    assert train[1]["labelled"] is None
    assert [scale["scale"] for scale in told["ceiling"]["scales"]] == [1]
    assert any("augment.pipeline drone may distort" in note for note in told["notes"])
    drawn = cv2.imread(str(sheet))
    assert drawn.shape[0] > 1.4 * drawn.shape[1], "four rows of three strips, six patches wide"


SITE, CELLS = 192, 3
"""Pitch of the sites of a scene in pixels, and how many there are along each side."""


def strokes(generator: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A scene of sites, and its labels, which are ignored but in the 64 px square at the middle of each.

    There thin strokes stand over noise. Whether they are of class 1 or 2 is told by a ring around the site alone,
    bright or dark, which begins 32 px beyond the square: no patch of 32 px that has a stroke's pixel has one of it.
    """
    side = SITE * CELLS
    image_HW, mask_HW = generator.normal(120, 10, (side, side)), np.full((side, side), 255, np.uint8)
    for row in range(0, side, SITE):
        for col in range(0, side, SITE):
            kind = int(generator.integers(1, 3))
            site = image_HW[row:row + SITE, col:col + SITE]
            ring = np.ones((SITE, SITE), bool)
            ring[32:-32, 32:-32] = False
            site[ring] += 80 if kind == 1 else -80
            label = np.zeros((64, 64), np.uint8)
            label[generator.choice(64, 10, replace=False)] = kind
            label = label.T if generator.random() < 0.5 else label
            site[64:128, 64:128] += 60 * (label > 0)
            mask_HW[row + 64:row + 128, col + 64:col + 128] = label
    return image_HW.clip(0, 255).astype(np.uint8), mask_HW


@pytest.mark.slow
@pytest.mark.long
def test_the_ground_around_is_learned_from_several_scales_alone(tmp_path: Path) -> None:
    """The positive control, from files to the score of whole scenes, through the real loop."""
    generator, names = np.random.default_rng(0), [f"s{i:02d}" for i in range(14)]
    uri = patchstore.create(str(tmp_path / "s.zarr"), dtype="uint8", bands=1, classes=[
        ClassInfo(name, (k, k, k)) for k, name in enumerate(("ground", "one", "other"))])
    for name in names:
        image, mask = (tmp_path / f"{name}{end}.tif" for end in ("", "_mask"))
        for path, values_HW in zip((image, mask), strokes(generator), strict=True):
            with rasterio.open(path, "w", driver="GTiff", count=1, dtype="uint8", height=len(values_HW),
                               width=len(values_HW), crs="EPSG:32634", transform=rasterio.Affine(
                                   1, 0, 5e5 + 1e4 * names.index(name), 0, -1, 5.8e6)) as file:
                file.write(values_HW, 1)
        patchstore.ingest(uri, SceneSource(name=name, image=image, mask=mask, group=name))
    store, found = patchstore.open(uri), {}
    for title, chosen in (("fine", PatchesConfig(size=32)), ("coarse", PatchesConfig(size=32, scales=(4.0,))),
                          ("concentric", PatchesConfig(size=32, scales=(1.0, 4.0), combine="concentric"))):
        config = replace(CONCENTRIC, patches=chosen,
                         split=SplitConfig(by="scene", val=tuple(names[10:]), test_fraction=0),
                         augment=AugmentConfig(pipeline="flips"), loss=LossConfig(cross_entropy=1),
                         score=ScoreConfig(overlap=0, part=0.1),
                         train=TrainConfig(megapixels=160 * 8 * 32**2 * chosen.scales_per_sample / 1e6, batch=8,
                                           micro_batch=8, report_every=100, lr=3e-3, ema=0))
        run = loop.fit(config, store, LocalContext(tmp_path / title, torch.device("cpu")))
        counts_KK = run.counts_RKQ.sum(axis=0)[:, :3]  # type: ignore[union-attr]
        right = counts_KK[1:, 1:].diagonal().sum() / counts_KK[1:].sum()
        found[title] = run.metrics["val/miou"], float(right)
        print(f"{title}: mean IoU {found[title][0]:.3f}, accuracy on strokes {right:.3f}, "
              f"{prepare(config, store).costs['model/gmacs_per_megapixel']:.1f} GMACs for a megapixel of map")
    assert abs(found["fine"][1] - 0.5) < 0.2
    assert found["concentric"][1] > 0.9
    assert found["concentric"][0] > max(found["fine"][0], found["coarse"][0]) + 0.3
