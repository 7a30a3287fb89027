"""Apply a trained model: score a split of a store, or map a scene file that was never ingested."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import patchstore
from patchstore.raster import RasterFile
from swath import checkpoint, maps, predict, score, tracking
from swath import split as splits
from swath.checkpoint import Checkpoint
from swath.context import choose_device, use_threads
from swath.errors import CheckpointError, DataError
from swath.score import Score
from swath.split import SplitName


def find(run: str, workdir: Path, uri: str = "") -> tuple[Checkpoint, str | None]:
    """The checkpoint of an MLflow run id or a checkpoint folder, and the run's id where it was given by one.

    Raises ConfigError for an id that the tracking store does not have, CheckpointError for a run without a checkpoint.
    """
    if Path(run).is_dir():
        return checkpoint.load(Path(run)), None
    location = tracking.prepare(workdir.resolve(), uri)
    record = tracking.find(location.uri, run)
    if tracking.CHECKPOINT_TAG not in record.tags:
        raise CheckpointError(f"run {run} ({record.status}) has no checkpoint; use a run that has finished")
    return checkpoint.load(Path(record.tags[tracking.CHECKPOINT_TAG])), run


def evaluate(run: str, split: SplitName, *, workdir: Path, store_uri: str = "", device: str = "auto") -> Score:
    """Score a model on a split, by default of the store that it was trained on.

    The score of a run that is given by its id is recorded with that run, as SPLIT/miou and SPLIT/iou/CLASS.
    Raises what `find` does, and DataError for a store whose bands, dtype or classes are not the model's.
    """
    trained, run_id = find(run, workdir)
    config, card = trained.config, trained.card
    store = patchstore.open(store_uri or card.store)
    names = tuple(info.name for info in store.classes)
    for what, has, needs in (("bands", store.bands, card.bands), ("dtype", str(store.dtype), card.dtype),
                             ("classes", names, card.classes)):
        if has != needs:
            raise DataError(f"{store.uri}: its {what} are {has}, the model's {needs}; score it on a store like its own")
    use_threads(config.cluster.cpus)
    place = choose_device(device)
    forward = predict.network_forward(trained.network(place), predict.precision(config.train.precision, place))
    result = score.evaluate(store, splits.divide(store, config.split), split, forward, config, place)
    if run_id is not None:
        tracker = tracking.MlflowTracker.attach(tracking.prepare(workdir.resolve()).uri, run_id)
        tracker.log({f"{split}/miou": result.miou} | {f"{split}/iou/{k}": v for k, v in result.iou.items()},
                    trained.state["megapixels"])
        tracker.tags({f"swath.protocol.{split}": result.protocol.digest()})
    return result


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


def predict_file(run: str, source: Path, output: Path, *, workdir: Path, device: str = "auto") -> Map:
    """Map a scene file: a Cloud-Optimised GeoTIFF with the file's CRS and transform, and a PNG beside it.

    The whole scene goes through the same windows and weights as the score does.
    Raises what `find` does, a SourceError for a file that cannot be read or whose bands or dtype are not the model's,
    and DataError where the output cannot be written.
    """
    trained, _ = find(run, workdir)
    config, card = trained.config, trained.card
    reader = RasterFile(source, bands=card.bands, dtype=np.dtype(card.dtype))
    use_threads(config.cluster.cpus)
    place = choose_device(device)
    forward = predict.network_forward(trained.network(place), predict.precision(config.train.precision, place))
    blended = predict.blend_scales(
        reader, forward, classes=len(card.classes), size=config.patches.size, scales=config.patches.scales,
        overlap=config.score.overlap, batch=predict.batch_size(config.patches.size), device=place)
    pixels_K = np.zeros(256, np.int64)

    def rows() -> Any:
        for row, classes_hW in predict.classes_of(blended):
            if reader.has_valid:
                inside = reader.valid((row, row + len(classes_hW)), (0, reader.shape[1]))
                classes_hW = np.where(inside, classes_hW, np.uint8(card.ignore))
            pixels_K[:] += np.bincount(classes_hW.ravel(), minlength=256)
            yield row, classes_hW

    maps.write_map(output, rows(), shape=reader.shape, crs=reader.crs, transform=reader.transform, names=card.classes,
                   colours=card.colours, nodata=card.ignore, tags={"SOURCE": source.name})
    picture = output.with_suffix(".png")
    maps.quicklook(output, picture)
    return Map(output=output, quicklook=picture, shape=reader.shape, nodata=int(pixels_K[card.ignore]),
               class_pixels={name: int(n) for name, n in zip(card.classes, pixels_K, strict=False)})
