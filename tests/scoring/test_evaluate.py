"""Models, folds and maps of other tools through the one score: what is recorded, what is refused, and the ledger."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix

import patchstore
from patchstore import Store
from support.commands import last_json
from support.drawn import keep_figures
from swath import recipes
from swath.config import (
    ClusterConfig,
    Config,
    DataConfig,
    ModelConfig,
    PatchesConfig,
    ScoreConfig,
    SplitConfig,
    TrackConfig,
    TrainConfig,
)
from swath.errors import ConfigError, DataError
from swath.experiments import evaluation, looks
from swath.experiments.evaluation import EvaluationRequest
from swath.maps import apply
from swath.scoring import counting
from swath.scoring.worst import WorstBlocks
from swath.splits import division
from swath.tracking import mlflow_store
from swath.training.context import LocalContext
from swath.training.prepared import Prepared
from swath.training.setup import TrainingSetup

CPU = torch.device("cpu")
Run = "subprocess.CompletedProcess[str]"


def configuration(store: Store, **changes: object) -> Config:
    base = Config(data=DataConfig(store=store.uri), patches=PatchesConfig(size=64),
                  model=ModelConfig(arch="pspnet", encoder="tu-mobilenetv3_small_050"), train=TrainConfig(megapixels=1),
                  score=ScoreConfig(overlap=0))  # a quarter of the windows
    return replace(base, **changes)  # type: ignore[arg-type]


def untrained(config: Config, store: Store, folder: Path) -> Path:
    """A checkpoint of a network as it begins, which any job takes for a model."""
    config = replace(config, cluster=replace(config.cluster, readers=0))
    job = TrainingSetup(Prepared.of(config, store), LocalContext(folder, CPU))
    with job.start().save(config, job.card, job.trained_cells()) as saved:
        return Path(shutil.copytree(saved, folder))


def recorded(checkpoint: Path, workdir: Path) -> str:
    """An MLflow run of a checkpoint."""
    location = mlflow_store.prepare(workdir)
    tracker = mlflow_store.MlflowTracker.start(location.uri, experiment="test", name="run", params={},
                                           artifact_location=location.artifact_location,
                                           tags={mlflow_store.CHECKPOINT_TAG: str(checkpoint)})
    tracker.end("FINISHED")
    return tracker.run_id


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tracking store, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("work")
    mlflow_store.prepare(folder)
    return folder


@pytest.fixture(scope="module")
def folds(store_uri: str, workdir: Path) -> list[str]:
    """Three runs of a cross-validation."""
    store = patchstore.open(store_uri)
    made = []
    for fold in range(3):
        config = configuration(store, split=SplitConfig(test_fraction=0, folds=3, fold=fold))
        made.append(recorded(untrained(config, store, workdir / "folds" / f"f{fold}"), workdir))
    return made


def test_folds_are_pooled_and_every_group_is_scored_once(folds: list[str], workdir: Path, store: Store,
                                                         job_here: Callable[..., Run]) -> None:
    found = last_json(job_here("evaluate", *folds, "--workdir", workdir, "--worst", 0, "--device", "cpu", "--json"))
    assert list(found["folds"]) == folds
    assert found["pixels"] == sum(sum(scene.class_pixels) for scene in store.scenes.values())
    np.testing.assert_array_equal(found["confusion"], sum(np.array(one["confusion"])
                                                          for one in found["folds"].values()))
    assert sorted(found["groups"]) == sorted({scene.group for scene in store.scenes.values()})
    assert found["intervals"] is None
    record = mlflow_store.find(mlflow_store.prepare(workdir).uri, found["run_id"])
    assert (record.tags["swath.role"], record.tags["swath.runs"]) == ("folds", " ".join(folds))
    assert record.tags["swath.protocol"] == found["protocol"]
    assert record.metrics["val/miou"] == found["miou"]
    assert any("in 3 groups" in note for note in found["notes"])


def test_each_fold_has_its_own_picture(folds: list[str], workdir: Path, tmp_path: Path, job_here: Callable[..., Run]
                                       ) -> None:
    done = job_here("evaluate", *folds[:2], "--workdir", workdir, "--worst", 1, "--device", "cpu", "--json",
                    "--pictures", tmp_path / "pictures")
    drawn = {one["picture"] for one in last_json(done)["folds"].values()}
    assert drawn == {str(path) for path in (tmp_path / "pictures").iterdir()}
    assert len(drawn) == 2
    assert done.stdout.count("picture ") == 2  # type: ignore[attr-defined]


def test_folds_that_cannot_be_pooled_are_refused(folds: list[str], workdir: Path, store: Store, tmp_path: Path) -> None:
    overlapping = configuration(store, split=SplitConfig(test_fraction=0, folds=3, fold=1, seed=0))
    copy = untrained(overlapping, store, tmp_path / "copy")
    with pytest.raises(DataError, match=r"both have ground of scene \w+ in their val split"):
        evaluation.cross_validate([*folds, str(copy)], EvaluationRequest(workdir=workdir))
    config = configuration(store, split=SplitConfig(test_fraction=0, folds=3, fold=2))
    other = untrained(replace(config, score=replace(config.score, overlap=0.25)), store, tmp_path / "other")
    with pytest.raises(DataError, match="differ in overlap"):
        evaluation.cross_validate([folds[0], str(other)], EvaluationRequest(workdir=workdir))
    less = untrained(replace(config, score=replace(config.score, without=(store.classes[0].name,))), store,
                     tmp_path / "less")
    with pytest.raises(DataError, match="differ in without"):
        evaluation.cross_validate([folds[0], str(less)], EvaluationRequest(workdir=workdir))
    with pytest.raises(ConfigError, match="given twice"):
        evaluation.cross_validate([folds[0], folds[0]], EvaluationRequest(workdir=workdir))


@pytest.mark.parametrize("patches", [PatchesConfig(size=64), PatchesConfig(size=96, scales=(2.0,))])
def test_a_written_maps_recomputed_score_is_the_models(store: Store, dataset: Path, tmp_path: Path,
                                                       patches: PatchesConfig) -> None:
    config = configuration(store, patches=patches, score=ScoreConfig())
    model = untrained(config, store, tmp_path / "model")
    found = evaluation.evaluate(str(model), EvaluationRequest(workdir=tmp_path), device="cpu").score
    labels, mapped = [], []
    for name in found.scenes:
        apply.predict(apply.Request(run=str(model), source=str(dataset / "images" / f"{name}.tif"), workdir=tmp_path,
                                    output=tmp_path / f"{name}.tif", cluster=ClusterConfig(device="cpu")))
        for folder, to in ((dataset / "masks", labels), (tmp_path, mapped)):
            with rasterio.open(folder / f"{name}.tif") as file:
                to.append(file.read(1).ravel())
    expected = confusion_matrix(np.concatenate(labels), np.concatenate(mapped), labels=range(len(store.classes)))
    np.testing.assert_array_equal(found.confusion, expected)
    assert (expected.sum(axis=0) > 0).sum() > 1  # the network sees more than one class


def write(path: Path, values: np.ndarray, profile: dict[str, object]) -> None:  # type: ignore[type-arg]
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **{**profile, "driver": "GTiff", "count": 1, "dtype": "uint8"}) as file:
        file.write(values, 1)


def test_a_foreign_map_is_scored_recorded_and_comparable(store: Store, dataset: Path, tmp_path: Path, workdir: Path,
                                                         job_here: Callable[..., Run]) -> None:
    """The labels themselves, under other numbers, with a strip missing in one scene."""
    split = division.divide(store, recipes.synthetic().split)
    names = [name for name, _ in split.scenes("val")]
    for name in names:
        with rasterio.open(dataset / "masks" / f"{name}.tif") as file:
            values, profile = file.read(1) + 10, {**file.profile, "nodata": 0}
        if name == names[0]:
            values[:32] = 0
        write(tmp_path / "maps" / f"{name}.tif", values, profile)
    table = [f"{index + 10}={info.name}" for index, info in enumerate(store.classes)]
    arguments = ["evaluate", "synthetic", "--map", tmp_path / "maps", "--data.store", store.uri, "--workdir", workdir,
                 "--map-classes", *table, "--json", "--pictures", tmp_path / "pictures"]
    wrong, out = (last_json(job_here(*arguments, "--uncovered", fate)) for fate in ("wrong", "out"))
    missing = 32 * store.scenes[names[0]].shape[1]
    assert wrong["uncovered"] == out["uncovered"] == {names[0]: missing}
    assert out["miou"] == out["boundary_miou"] == out["accuracy"] == 1
    assert wrong["accuracy"] == 1 - missing / wrong["pixels"]
    assert any(names[0] in note and f"{missing:,}" in note for note in wrong["notes"])
    assert out["picture"] is None  # nothing is wrong
    with Image.open(wrong["picture"]) as picture:
        assert picture.size[0] > 400

    uri = mlflow_store.prepare(workdir).uri
    record = mlflow_store.find(uri, wrong["run_id"])
    assert record.tags["swath.role"] == "map"
    assert record.metrics["val/miou"] == wrong["miou"]
    assert record.status == "FINISHED"
    own = counting.protocol(store, split, "val", recipes.synthetic())
    assert record.tags["swath.protocol.ground"] == own.ground()
    assert record.tags["swath.protocol"] != own.digest()


def test_a_map_is_scored_on_a_runs_own_split(store: Store, dataset: Path, folds: list[str], workdir: Path,
                                             job_here: Callable[..., Run]) -> None:
    found = last_json(job_here("evaluate", folds[1], "--map", dataset / "masks", "--workdir", workdir, "--json"))
    ground = division.divide(store, SplitConfig(test_fraction=0, folds=3, fold=1))
    assert found["miou"] == 1
    assert found["pixels"] == division.class_pixels(store, ground, "val").sum()


def test_a_recipes_fields_and_a_file_say_how_a_map_is_scored(store: Store, dataset: Path, workdir: Path, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch,
                                                            job_here: Callable[..., Run]) -> None:
    """Fold 1 of three, by a recipe's fields and by a file that names a tracking store; a folder of the recipe's name
    is not taken for a checkpoint."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "synthetic").mkdir()
    name = store.classes[-1].name
    fields = ["--split.test-fraction", 0, "--split.folds", 3, "--split.fold", 1, "--score.without", name,
              "--data.merge", f"rest={name}"]
    arguments = ["evaluate", "--map", dataset / "masks", "--map-classes", f"{len(store.classes) - 1}=", "--json"]
    wrong = job_here(*arguments[:1], "synthetic", *arguments[1:], "--data.store", store.uri, *fields)
    assert "score.without must be some of the classes" in wrong.stderr  # type: ignore[attr-defined]
    fields[7] = "rest"
    by_fields = last_json(job_here(*arguments[:1], "synthetic", *arguments[1:], "--data.store", store.uri, *fields,
                                   "--workdir", workdir))
    ground = division.divide(store, SplitConfig(test_fraction=0, folds=3, fold=1))
    pixels = division.class_pixels(store, ground, "val")
    assert by_fields["pixels"] == pixels.sum()
    assert by_fields["means"]["mean without rest"] == 1
    assert sum(by_fields["uncovered"].values()) == pixels[-1]  # VALUE= is no class

    config = configuration(store, split=SplitConfig(test_fraction=0, folds=3, fold=1),
                           data=DataConfig(store=store.uri, merge=(f"rest={name}",)),
                           track=TrackConfig(uri=mlflow_store.prepare(workdir).uri))
    (tmp_path / "mine.json").write_text(config.to_json())
    by_file = last_json(job_here(*arguments, "--config", "mine.json", "--workdir", tmp_path / "elsewhere"))
    assert (by_file["ground"], by_file["miou"]) == (by_fields["ground"], by_fields["miou"])
    assert mlflow_store.find(config.track.uri, by_file["run_id"]).metrics["val/miou"] == by_file["miou"]
    assert not (tmp_path / "elsewhere").exists()


def test_a_map_that_covers_no_label_is_no_score(store: Store, dataset: Path, workdir: Path, tmp_path: Path,
                                                job_here: Callable[..., Run]) -> None:
    for path in (dataset / "masks").glob("*.tif"):
        with rasterio.open(path) as file:
            write(tmp_path / "maps" / path.name, np.zeros(file.shape, np.uint8), {**file.profile, "nodata": 0})
    done = job_here("evaluate", "synthetic", "--map", tmp_path / "maps", "--data.store", store.uri, "--uncovered",
                    "out", "--workdir", workdir)
    assert done.returncode == 2  # type: ignore[attr-defined]
    assert "not one labelled pixel of the val split" in done.stderr  # type: ignore[attr-defined]


def test_nothing_is_drawn_for_nobody(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained(configuration(store), store, tmp_path / "model")
    kept = keep_figures(monkeypatch)
    assert evaluation.evaluate(str(model), EvaluationRequest(workdir=tmp_path, worst=4), device="cpu").picture is None
    assert kept == []
    assert not list(tmp_path.rglob("*.png"))


def test_looks_at_the_test_split_are_kept(store: Store, workdir: Path, tmp_path: Path, job_here: Callable[..., Run]
                                          ) -> None:
    model = untrained(configuration(store), store, tmp_path / "model")
    run, before = recorded(model, workdir), len(looks.looks(mlflow_store.prepare(workdir).uri))
    arguments = ["evaluate", run, "--split", "test", "--workdir", workdir, "--device", "cpu", "--worst", 1, "--json"]
    found = [last_json(job_here(*arguments)) for _ in range(2)]
    assert [one["looks"] for one in found] == [0, 1]
    assert list((workdir / "artifacts").rglob(f"worst-test-{run}.png"))
    assert list((workdir / "artifacts").rglob(f"{run}/artifacts/confusion-test.png"))
    again = configuration(store, patches=PatchesConfig(size=96))  # another model, the same ground
    other = untrained(again, store, tmp_path / "other")
    assert evaluation.evaluate(str(other), EvaluationRequest(split="test", workdir=workdir), device="cpu").looks == 2
    listed = last_json(job_here("evaluate", "--ledger", "--workdir", workdir, "--json"))["looks"]
    assert [one["what"] for one in listed[before:]] == [run, run, str(other)]
    assert [one["miou"] for one in listed[before:before + 2]] == [one["miou"] for one in found]
    assert all(one["user"] and one["state"] == "FINISHED" for one in listed)
    record = mlflow_store.find(mlflow_store.prepare(workdir).uri, run)
    assert record.metrics["test/miou"] == found[0]["miou"]
    assert record.tags["swath.protocol.test"] == found[0]["protocol"]


def test_a_look_that_fails_is_listed_too(store: Store, workdir: Path) -> None:
    location = mlflow_store.prepare(workdir)
    config = Config(split=SplitConfig(seed=5))
    said = counting.protocol(store, division.divide(store, config.split), "test", config)
    with pytest.raises(RuntimeError), looks.look(location, said, "a/map", store.uri):
        raise RuntimeError("broken off")
    last = looks.looks(location.uri)[-1]
    assert (last.state, last.miou, last.what) == ("FAILED", None, "a/map")


def test_a_look_knows_of_one_that_is_under_way(store: Store, workdir: Path) -> None:
    location = mlflow_store.prepare(workdir)
    model = untrained(configuration(store, split=SplitConfig(seed=3)), store, workdir / "under-way")
    config = configuration(store, split=SplitConfig(seed=3))
    said = counting.protocol(store, division.divide(store, config.split), "test", config)
    with looks.look(location, said, "another", store.uri):
        found = evaluation.evaluate(str(model), EvaluationRequest(split="test", workdir=workdir), device="cpu")
    assert found.looks == 1


@pytest.mark.parametrize(("what", "name"), [("/maps", "worst-val-maps"), ("/a/b/c.tif", "worst-val-b-c.tif"),
                                            ("run", "worst-val-run")])
def test_a_picture_has_the_name_of_what_was_scored(store: Store, tmp_path: Path, what: str, name: str) -> None:
    ground = evaluation._ground(configuration(store), store, "val")
    watch = WorstBlocks(1, store.ignore)
    region = counting.whole(store, ground.labels, "val")[0]
    watch(region, region.rows[0], np.zeros(region.shape, np.uint8), np.ones(region.shape, np.uint8))
    found = evaluation._draw(ground, watch, EvaluationRequest(pictures=tmp_path), what, None)
    assert found == tmp_path / f"{name}.png"
    assert found.exists()


@pytest.mark.slow  # three processes that import torch
def test_writers_at_once_lose_no_look(store: Store, workdir: Path) -> None:
    code = """
import sys
from pathlib import Path
from swath.experiments import looks
from swath.scoring.protocol import Protocol
from swath.tracking import mlflow_store
location = mlflow_store.prepare(Path(sys.argv[1]))
said = Protocol(split="test", cells="crowd", store="s", classes=(), ignored=(), boundary_px=3, overlap=0.5,
                symmetries=1)
for turn in range(3):
    with looks.look(location, said, f"{sys.argv[2]}-{turn}", "s") as entry:
        entry.log({"test/miou": 0.5}, 0.0)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(workdir), str(number)]) for number in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    listed = [one for one in looks.looks(mlflow_store.prepare(workdir).uri) if one.cells == "crowd"]
    assert sorted(one.what for one in listed) == [f"{number}-{turn}" for number in range(3) for turn in range(3)]
    assert all(one.miou == 0.5 for one in listed)


def test_what_cannot_be_scored_is_refused_in_a_line(store: Store, workdir: Path, tmp_path: Path,
                                                    job_here: Callable[..., Run]) -> None:
    for arguments, said in (
            ([], "name a RUN"), (["synthetic", "--map", tmp_path / "no.tif"], "data.store"),
            (["nothing", "--map", tmp_path, "--data.store", store.uri], "no recipe 'nothing'"),
            (["synthetic", "--map", tmp_path, "--data.store", store.uri, "--map-classes", "1"], "VALUE=CLASS"),
            (["a", "b", "--map", tmp_path], "one run or recipe"), (["--map", tmp_path], "one run or recipe"),
            (["a", "--worst", "-1"], "worst"), (["a", "--worst", "65"], "from 0 to 64"),
            (["a", "--uncovered", "out", "--map-classes", "1="], "--map-classes, --uncovered: only for a map"),
            (["a", "--split.folds", "3"], "--split.folds: only for a map"), (["a", "--ledger"], "--ledger lists"),
            (["synthetic", "--map", tmp_path, "--ledger"], "--ledger lists"),
            (["a", "--pictures", __file__], "is no folder that can be written to")):
        done = job_here("evaluate", *arguments, "--workdir", workdir)
        assert done.returncode == 2, done.stdout + done.stderr  # type: ignore[attr-defined]
        assert said in " ".join(done.stderr.split()), done.stderr  # type: ignore[attr-defined]
        assert "Traceback" not in done.stderr  # type: ignore[attr-defined]
