"""Apply a trained model: score a split of a store, or map a scene file that was never ingested."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import patchstore
from patchstore import Store
from patchstore.conventions import pixel_m2
from patchstore.raster import RasterFile
from swath import checkpoint, maps, patches, predict, score, tracking
from swath import split as splits
from swath.checkpoint import Checkpoint
from swath.context import DeviceName, choose_device, use_threads
from swath.errors import CheckpointError, DataError
from swath.predict import Forward
from swath.score import Score
from swath.split import Split, SplitName


def find(run: str, workdir: Path, uri: str = "") -> tuple[Checkpoint, str | None]:
    """The checkpoint of an MLflow run id or a checkpoint folder, and the run's id where it was given by one.

    Raises ConfigError for an id that the tracking store does not have, CheckpointError for a run without a checkpoint
    and for a folder that is none.
    """
    if "/" in run or Path(run).is_dir():
        return checkpoint.load(Path(run)), None
    location = tracking.prepare(workdir, uri)
    record = tracking.find(location.uri, run)
    if tracking.CHECKPOINT_TAG not in record.tags:
        raise CheckpointError(f"run {run} ({record.status}) has no checkpoint; use a run that has finished")
    return checkpoint.load(Path(record.tags[tracking.CHECKPOINT_TAG])), run


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
    forward, place = _ready(trained, device)
    result = score.evaluate(store, labels, split, forward, config, place)
    if run_id is not None and split == "test" and store.fingerprint == card.fingerprint:
        tracker = tracking.MlflowTracker.attach(tracking.prepare(workdir, uri).uri, run_id)
        tracker.log({"test/miou": result.miou} | {f"test/iou/{name}": v for name, v in result.iou.items()},
                    trained.state["megapixels"])
        tracker.tags({"swath.protocol.test": result.protocol.digest()})
    return result


def _ready(trained: Checkpoint, device: DeviceName) -> tuple[Forward, torch.device]:
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


@dataclass(frozen=True, kw_only=True)
class Map:
    """A map that was written."""

    output: Path
    quicklook: Path
    shape: tuple[int, int]
    class_pixels: dict[str, int]
    """Pixels of each class."""
    nodata: int
    """Pixels where the source has none."""


def predict_file(run: str, source: Path, output: Path, *, workdir: Path, uri: str = "", device: DeviceName = "auto"
                 ) -> Map:
    """Map a scene file: a Cloud-Optimised GeoTIFF with the file's CRS and transform, and a PNG beside it.

    The whole scene goes through the same windows and weights as the score does.
    Raises what `find` does, a SourceError for a file that cannot be read or whose bands or dtype are not the model's,
    and DataError where the output cannot be written, is no .tif, or would take the place of the source, and where the
    model sees metres (`patches.pixel_m`) and the file's CRS gives none, or pixels too fine or coarse for it.
    """
    picture = output.with_suffix(".png")
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise DataError(f"{output}: a map is a GeoTIFF; give a name that ends in .tif")
    if source.resolve() in (output.resolve(), picture.resolve()):
        raise DataError(f"{output}: the map, or its picture {picture.name}, would take the place of {source}; give "
                        "another name")
    trained, _ = find(run, workdir, uri)
    config, card = trained.config, trained.card
    reader = RasterFile(source, bands=card.bands, dtype=np.dtype(card.dtype))
    scales = patches.factors(config.patches, pixel_m2(reader.crs, reader.transform), str(source))
    forward, place = _ready(trained, device)
    whole = predict.part(reader, size=config.patches.size, scales=scales, overlap=config.score.overlap)
    blended = predict.blend(whole, forward, classes=len(card.classes), batch=predict.batch_size(config.patches.size),
                            device=place)
    pixels_K = np.zeros(256, np.int64)

    def rows() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for row, classes_hW in predict.classes_of(blended):
            if reader.has_valid:
                inside = reader.valid((row, row + len(classes_hW)), (0, reader.shape[1]))
                classes_hW = np.where(inside, classes_hW, np.uint8(card.ignore))
            pixels_K[:] += np.bincount(classes_hW.ravel(), minlength=256)
            yield row, classes_hW

    maps.write_map(output, rows(), shape=reader.shape, crs=reader.crs, transform=reader.transform, names=card.classes,
                   colours=card.colours, nodata=card.ignore, tags={"SOURCE": source.name})
    maps.quicklook(output, picture)
    return Map(output=output, quicklook=picture, shape=reader.shape, nodata=int(pixels_K[card.ignore]),
               class_pixels={name: int(n) for name, n in zip(card.classes, pixels_K, strict=False)})
