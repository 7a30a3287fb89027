"""Score a split of a store: a trained model, several of a cross-validation, or a map that was made elsewhere.

All go through the same score (`swath.score`); what differs is who predicts. A look at a test split is written into the
ledger before anything is predicted.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import torch

import patchstore
from patchstore import Store
from swath import figures
from swath.config import Config, DeviceName
from swath.errors import ConfigError, DataError
from swath.experiments import looks
from swath.experiments.experiment import ended_truly
from swath.experiments.prepare import open_store
from swath.models import checkpoint, inference
from swath.models.checkpoint import Checkpoint
from swath.names import FINGERPRINT_TAG, MAP_TAG, NOTES_TAG, ROLE_TAG, RUNS_TAG, STORE_TAG
from swath.runtime import choose_device, use_threads
from swath.scoring import counting, protocol, result, worst
from swath.scoring.counting import Predictions
from swath.scoring.external_maps import ExternalMaps
from swath.scoring.metrics import Uncovered
from swath.scoring.protocol import Protocol
from swath.scoring.result import Score
from swath.scoring.worst import WorstBlocks
from swath.splits import division
from swath.splits.division import Split, SplitName
from swath.tracking import mlflow_store, runs
from swath.tracking.mlflow_store import Tracker

_MOST_BLOCKS = 64
"""Blocks that a picture has room for: each is a row of it."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What is to be scored, and what is to come of it beside the score."""

    split: SplitName = "val"
    workdir: Path = Path("runs")
    """Folder of the default tracking store."""
    uri: str = ""
    """Tracking store; empty: $MLFLOW_TRACKING_URI, or the default one."""
    worst: int = 0
    """Blocks with most wrong pixels to draw, at most 64."""
    pictures: Path | None = None
    """Folder for that picture; none: it goes to MLflow alone, where the score has a run."""

    def __post_init__(self) -> None:
        if not 0 <= self.worst <= _MOST_BLOCKS:
            raise ConfigError(f"worst must be from 0 to {_MOST_BLOCKS}, got {self.worst}")

    def make_folder(self) -> None:
        """Make the folder of the picture. Raises ConfigError where it cannot be made, or nothing can be written."""
        if self.pictures is None:
            return
        try:
            self.pictures.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.pictures).close()
        except OSError as error:
            raise ConfigError(f"pictures: {self.pictures} is no folder that can be written to ({error.strerror}); give "
                              "another") from None

    def location(self) -> mlflow_store.Location:
        """The tracking store. Raises ConfigError when it cannot be reached."""
        return mlflow_store.prepare(self.workdir, self.uri)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """A score, and what came with it."""

    score: Score
    notes: tuple[str, ...] = ()
    """What is to be known of it, a sentence each."""
    looks: int | None = None
    """How often this test split was looked at before; none for another split."""
    picture: Path | None = None
    """The worst blocks, where they were drawn to a folder."""
    run_id: str | None = None
    """The MLflow run that the score belongs to."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Folds:
    """A cross-validation."""

    each: Mapping[str, Evaluation]
    """The evaluation of each run."""
    pooled: Evaluation
    """The score of all their counts together; its run where all the runs were given by their ids."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ground:
    """A split of a store."""

    config: Config
    store: Store
    labels: Split
    split: SplitName

    def protocol(self, uncovered: Uncovered | None = None) -> Protocol:
        return counting.protocol(self.store, self.labels, self.split, self.config, uncovered)


def load_run(run: str, workdir: Path, uri: str = "") -> tuple[Checkpoint, str | None]:
    """The checkpoint of an MLflow run id or a checkpoint folder, and the run's id where it was given by one. Raises as
    `runs.locate`, and CheckpointError for a checkpoint that is not whole."""
    folder, run_id = runs.locate(run, workdir, uri)
    return checkpoint.load(folder), run_id


def evaluate(run: str, wanted: EvaluationRequest, *, store_uri: str = "", device: DeviceName = "auto") -> Evaluation:
    """Score a model on a split, by default of the store that it was trained on; `store_uri` names another.

    The test score of a run that is given by its id, on the very data of its training, is recorded with that run as
    test/miou and so on, with a confusion matrix, as is the picture of the worst blocks of any split; training itself
    records the other scores, and scores on other data are not the run's. Raises what `load_run` does, ConfigError for a
    folder of pictures that cannot be, and DataError for a store whose bands, dtype or classes are not the model's, or
    in which ground that the model was trained on is now in the split.
    """
    wanted.make_folder()
    trained, run_id = load_run(run, wanted.workdir, wanted.uri)
    return _evaluate(run, run_id, trained, _ground_of(trained, wanted.split, store_uri), wanted, device)


def cross_validate(runs: Sequence[str], wanted: EvaluationRequest, *, store_uri: str = "", device: DeviceName = "auto"
                   ) -> Folds:
    """Score the models of a cross-validation, each on the split of its own fold, and pool their counts.

    The pooled score of runs that are given by their ids is recorded as a run of the first one's experiment.
    Raises what `evaluate` does and, before anything is predicted, ConfigError for a run given twice and DataError where
    two runs' splits share cells or are not scored in the same way.
    """
    if twice := [run for run, count in Counter(runs).items() if count > 1]:
        raise ConfigError(f"run {twice[0]} is given twice; give each fold's run once")
    wanted.make_folder()
    found = {run: load_run(run, wanted.workdir, wanted.uri) for run in runs}
    grounds = {run: _ground_of(trained, wanted.split, store_uri) for run, (trained, _) in found.items()}
    protocol.check_poolable([ground.protocol() for ground in grounds.values()],
                            [ground.config.score.without for ground in grounds.values()])
    for (one, ground), (other, others) in combinations(grounds.items(), 2):
        _refuse_shared_ground(one, ground, other, others)
    each = {run: _evaluate(run, run_id, trained, grounds[run], wanted, device)
            for run, (trained, run_id) in found.items()}
    pooled = result.pool([one.score for one in each.values()])
    kept = [run_id for _, run_id in found.values() if run_id is not None]
    run_id = _record_folds(grounds[runs[0]], pooled, wanted, kept) if len(kept) == len(runs) else None
    return Folds(each=each, pooled=Evaluation(score=pooled, notes=pooled.notes, run_id=run_id))


def evaluate_map(path: Path, config: Config, wanted: EvaluationRequest, *, table: Mapping[str, str] | None = None,
                 uncovered: Uncovered = "wrong") -> Evaluation:
    """Score a map that another tool made, a georeferenced class raster or a folder of such, on a split of
    `config.data.store`, and record it as an MLflow run of the configuration's experiment, in the tracking store that is
    wanted, else in the configuration's.

    `table`: the class of each value or name that the rasters have; `uncovered`: what becomes of labelled pixels that
    they leave out. Raises ConfigError where no store is named or for a folder of pictures that cannot be, DataError for
    a split that the configuration does not have or of which no pixel is scored, and what `ExternalMaps.open` and its
    source raise.
    """
    wanted = replace(wanted, uri=wanted.uri or config.track.uri)
    wanted.make_folder()
    ground = _ground(config, open_store(config), wanted.split)
    maps = ExternalMaps.open(path, ground.store, [scene for scene, _ in ground.labels.scenes(wanted.split)],
                             table=table or {})
    said = ground.protocol(uncovered)
    with _recorded(ground, said, wanted, config.track.name or path.name, "map", {MAP_TAG: str(path)}) as tracker:
        found = _score(ground, maps.source, wanted, str(path), tracker, uncovered)
        found = replace(found, run_id=tracker.run_id, notes=(*maps.notes, *found.notes))
        _record(tracker, found.score, found.notes)
    return found


@contextmanager
def _recorded(ground: _Ground, said: Protocol, wanted: EvaluationRequest, name: str, role: str, tags: Mapping[str, str]
              ) -> Iterator[Tracker]:
    """A run of the configuration's experiment for a score that no training has; it ends with the block."""
    location = wanted.location()
    tracker = mlflow_store.MlflowTracker.start(
        location.uri, experiment=ground.config.track.experiment, name=name,
        artifact_location=location.artifact_location, params={},
        tags={ROLE_TAG: role, **tags, STORE_TAG: ground.store.uri, **said.tags(),
              FINGERPRINT_TAG: ground.store.fingerprint})
    with ended_truly(tracker):
        tracker.text(said.to_json(), "protocol.json")
        yield tracker


def _record(tracker: Tracker, found: Score, notes: Sequence[str]) -> None:
    """Record a score with a run of its own."""
    tracker.log(found.numbers(), 0.0)
    tracker.tags({NOTES_TAG: "\n".join(notes)})
    _confusion(tracker, found, "confusion.png")


def _confusion(tracker: Tracker, found: Score, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures.confusion(found.confusion, found.classes, Path(folder, name))
        tracker.artifact(Path(folder, name))


def _record_folds(ground: _Ground, pooled: Score, wanted: EvaluationRequest, runs: Sequence[str]) -> str:
    """Record the pooled score of a cross-validation's runs, and give the id of its run."""
    with _recorded(ground, pooled.protocol, wanted, f"{len(runs)} folds", "folds",
                   {RUNS_TAG: " ".join(runs)}) as tracker:
        _record(tracker, pooled, pooled.notes)
    return tracker.run_id


def _evaluate(run: str, run_id: str | None, trained: Checkpoint, ground: _Ground, wanted: EvaluationRequest,
              device: DeviceName) -> Evaluation:
    """Score a model on its ground, and record with its run what is the run's."""
    own = run_id is not None and ground.store.fingerprint == trained.card.fingerprint
    tracker = mlflow_store.MlflowTracker.attach(wanted.location().uri, run_id) if own and run_id else None
    use_threads(trained.config.cluster.cpus)  # those of its training: the same bytes
    place = choose_device(device)
    forward = inference.load_for_inference(trained, place)
    found = _score(ground, counting.network_source(ground.store, forward, ground.config, place), wanted, run, tracker)
    if tracker is not None and wanted.split == "test":
        tracker.log(found.score.numbers(), trained.state.megapixels)
        tracker.tags(found.score.protocol.tags())
        _confusion(tracker, found.score, "confusion-test.png")
    return replace(found, run_id=run_id)


def _score(ground: _Ground, source: Predictions, wanted: EvaluationRequest, what: str, tracker: Tracker | None,
           uncovered: Uncovered | None = None) -> Evaluation:
    """Score what a source predicts; a look at a test split goes into the ledger, the worst blocks to folder and run.
    Raises DataError where no pixel is scored."""
    shown = wanted.worst and (wanted.pictures is not None or tracker is not None)
    watch = WorstBlocks(wanted.worst, ground.store.ignore) if shown else None
    earlier = None
    with ExitStack() as stack:
        entry = None
        if wanted.split == "test":
            location, said = wanted.location(), ground.protocol(uncovered)
            entry = stack.enter_context(looks.look(location, said, what, ground.store.uri))
            # Counted now: of two that begin at once, one at least sees the other.
            earlier = sum(one.run_id != entry.run_id for one in looks.looks(location.uri, said))
        found = counting.evaluate(ground.store, ground.labels, wanted.split, source, ground.config, uncovered=uncovered,
                               watch=watch)
        if not found.pixels:
            raise DataError(f"{what}: not one labelled pixel of the {wanted.split} split has a prediction, so there is "
                            "nothing to score; give a map of its scenes")
        if entry:
            entry.log(found.numbers(), 0.0)
    picture = _draw(ground, watch, wanted, what, tracker) if watch and watch.blocks else None
    return Evaluation(score=found, notes=found.notes, looks=earlier, picture=picture)


def _draw(ground: _Ground, watch: WorstBlocks, wanted: EvaluationRequest, what: str, tracker: Tracker | None
          ) -> Path | None:
    """Draw the worst blocks into the folder that is wanted, and into the run's record."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(what)
        parts = place.relative_to(place.anchor).parts[-2:]  # of a checkpoint the run and its age: folds share no name
        path = (wanted.pictures or Path(temporary)) / f"{'-'.join(('worst', wanted.split, *parts))}.png"
        worst.draw(ground.store, ground.labels, wanted.split, watch.blocks, path)
        if tracker is not None:
            tracker.artifact(path)
    return path if wanted.pictures else None


def _ground_of(trained: Checkpoint, split: SplitName, store_uri: str) -> _Ground:
    """The split of a model's configuration, over its own store or one like it. Raises DataError as `evaluate` does."""
    config, card = trained.config, trained.card
    store = patchstore.open(store_uri or card.store, merge=config.data.merge)
    names = tuple(info.name for info in store.classes)
    for what, has, needs in (("bands", store.bands, card.bands), ("dtype", str(store.dtype), card.dtype),
                             ("classes", names, card.classes)):
        if has != needs:
            raise DataError(f"{store.uri}: its {what} are {has}, the model's {needs}; score it on a store like its own")
    ground = _ground(config, store, split)
    if split != "train":
        _refuse_trained_ground(store, ground.labels, split, trained.state.trained)
    return ground


def _ground(config: Config, store: Store, split: SplitName) -> _Ground:
    """The split of a store that a configuration describes. Raises DataError where it has none."""
    counting.check_without(store, config)
    labels = division.divide(store, config.split)
    if not any(labels.scenes(split)):
        raise DataError(f"{store.uri}: the configuration has no {split} split (split.{split}_fraction is 0); score "
                        "another")
    return _Ground(config=config, store=store, labels=labels, split=split)


def _refuse_shared_ground(one: str, ground: _Ground, other: str, others: _Ground) -> None:
    """Raise DataError where two runs' splits have a cell in common."""
    mine = dict(ground.labels.scenes(ground.split))
    for scene, cells in others.labels.scenes(others.split):
        if scene in mine and bool((mine[scene] & cells).any()):
            raise DataError(f"runs {one} and {other} both have ground of scene {scene} in their {ground.split} split, "
                            "which would count twice; give runs of different folds (split.folds, split.fold), and "
                            "score val, which the folds do not share")


def _refuse_trained_ground(store: Store, labels: Split, split: SplitName, trained: Mapping[str, torch.Tensor]) -> None:
    """Raise DataError where a split has cells that the model was trained on: the store has changed since, and with it
    what is drawn for each split, or it has a scene under two names. `trained`: by a scene's fingerprint (of its
    content), its train cells."""
    for name, cells in labels.scenes(split):
        before = trained.get(store.scenes[name].fingerprint)
        if before is not None and bool((before.numpy() & cells).any()):
            raise DataError(f"{store.uri}: scene {name} is in the {split} split now, but the model was trained on it, "
                            "or on a scene of the same content. Name the groups in split.val and split.test, copies in "
                            "one, and train again")
