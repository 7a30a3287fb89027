"""Score a trained model on a split of a store."""

from collections.abc import Mapping
from pathlib import Path

import torch

import patchstore
from patchstore import Store
from swath import checkpoint, predict, score, tracking
from swath import split as splits
from swath.checkpoint import Checkpoint
from swath.context import DeviceName, choose_device, use_threads
from swath.errors import CheckpointError, DataError
from swath.predict import Forward
from swath.result import Score
from swath.split import Split, SplitName


def find(run: str, workdir: Path, uri: str = "") -> tuple[Checkpoint, str | None]:
    """The checkpoint of an MLflow run id or a checkpoint folder, and the run's id where it was given by one. Raises as
    `locate`, and CheckpointError for a checkpoint that is not whole."""
    folder, run_id = locate(run, workdir, uri)
    return checkpoint.load(folder), run_id


def locate(run: str, workdir: Path, uri: str = "") -> tuple[Path, str | None]:
    """The folder of a run's checkpoint, and the run's id where it was given by one.

    Raises ConfigError for an id that the tracking store does not have, CheckpointError for a run without a checkpoint.
    """
    if "/" in run or Path(run).is_dir():
        return Path(run), None
    location = tracking.prepare(workdir, uri)
    record = tracking.find(location.uri, run)
    if tracking.CHECKPOINT_TAG not in record.tags:
        raise CheckpointError(f"run {run} ({record.status}) has no checkpoint; use a run that has finished")
    return Path(record.tags[tracking.CHECKPOINT_TAG]), run


def evaluate(run: str, split: SplitName, *, workdir: Path, uri: str = "", store_uri: str = "",
             device: DeviceName = "auto") -> Score:
    """Score a model on a split, by default of the store that it was trained on.

    The test score of a run that is given by its id, on the very data of its training, is recorded with that run as
    test/miou and test/iou/CLASS; training itself records the other splits, and scores on other data are not the run's.
    Raises what `find` does, and DataError for a store whose bands, dtype or classes are not the model's, or in which
    ground that the model was trained on is now in the split.
    """
    trained, run_id = find(run, workdir, uri)
    config, card = trained.config, trained.card
    store = patchstore.open(store_uri or card.store, merge=config.data.merge)
    names = tuple(info.name for info in store.classes)
    for what, has, needs in (("bands", store.bands, card.bands), ("dtype", str(store.dtype), card.dtype),
                             ("classes", names, card.classes)):
        if has != needs:
            raise DataError(f"{store.uri}: its {what} are {has}, the model's {needs}; score it on a store like its own")
    labels = splits.divide(store, config.split)
    if not any(labels.scenes(split)):
        raise DataError(f"{store.uri}: the model's configuration has no {split} split (split.{split}_fraction is 0); "
                        "score it on another")
    if split != "train":
        _refuse_trained_ground(store, labels, split, trained.state["trained"])
    forward, place = ready(trained, device)
    source = score.network_source(store, forward, config, place)
    result = score.evaluate(store, labels, split, source, config)
    if run_id is not None and split == "test" and store.fingerprint == card.fingerprint:
        tracker = tracking.MlflowTracker.attach(tracking.prepare(workdir, uri).uri, run_id)
        tracker.log({"test/miou": result.miou} | {f"test/iou/{name}": v for name, v in result.iou.items()},
                    trained.state["megapixels"])
        tracker.tags({"swath.protocol.test": result.protocol.digest()})
    return result


def ready(trained: Checkpoint, device: DeviceName) -> tuple[Forward, torch.device]:
    """The model's forward pass and the device that it runs on, with the threads of its training: the same bytes."""
    use_threads(trained.config.cluster.cpus)
    place = choose_device(device)
    precision = predict.precision(trained.config.train.precision, place)
    return predict.network_forward(trained.network(place), precision), place


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
