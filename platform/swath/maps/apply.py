"""Apply a trained model: maps of scenes, from files that were never ingested or from a store."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from rasterio.transform import Affine

from patchstore.sources import open_dataset
from swath.config import ClusterConfig
from swath.maps import bands, geotiff, mosaic, polygons, predict_bands, targets
from swath.maps.mosaic import NoMosaicError
from swath.maps.predict_bands import PredictionSettings, SceneToMap
from swath.maps.targets import JOB, VRT, Target
from swath.maps.targets import Request as Request
from swath.models import checkpoint
from swath.models.checkpoint import Checkpoint, ModelCard
from swath.runtime import choose_device
from swath.say import print_line
from swath.tracking import runs


@dataclass(frozen=True, kw_only=True)
class Map:
    """A map that was written."""

    name: str
    output: Path
    quicklook: Path
    shape: tuple[int, int]
    class_pixels: dict[str, int]
    """Pixels of each class."""
    nodata: int
    """Pixels where the source has none, or that lie outside of the area."""
    others: dict[str, Path]
    """Further files: confidence, probabilities, polygons."""


@dataclass(frozen=True, kw_only=True)
class Maps:
    """The maps of a request."""

    maps: list[Map]
    mosaic: Path | None
    """VRT over them, where there are several that can be laid together."""
    notes: tuple[str, ...]
    """What a person should know: inputs that the area does not touch, maps that the mosaic leaves out."""


class Predictor(Protocol):
    """Predicts the bands of maps somewhere: in this process, or on a cluster (`distributed.runners.predictor`)."""

    def machines(self, cluster: ClusterConfig, /) -> AbstractContextManager[ClusterConfig]:
        """Hold the machines within a block; gives the configuration with the device and the cores of a worker."""

    def predict(self, model: PredictionSettings, scenes: Sequence[SceneToMap], /, cluster: ClusterConfig
                ) -> Generator[SceneToMap, None, None]:
        """Predict the missing bands of scenes; yields each scene when all of its bands are there."""


class InProcess:
    """The predictor of this process."""

    @contextmanager
    def machines(self, cluster: ClusterConfig) -> Iterator[ClusterConfig]:
        """The configuration with this machine's device. Raises ValueError for several workers or a cluster."""
        if cluster.workers > 1 or cluster.address:
            raise ValueError("this process is one worker; pass predictor=swath.distributed.runners.predictor(cluster)")
        yield replace(cluster, device="cuda" if choose_device(cluster.device).type == "cuda" else "cpu")

    def predict(self, model: PredictionSettings, scenes: Sequence[SceneToMap], cluster: ClusterConfig
                ) -> Generator[SceneToMap, None, None]:
        """Predict scenes one after another."""
        works = [(scene, scene.bands.rows) for scene in scenes if scene.bands.missing()]
        yield from (scene for scene in scenes if not scene.bands.missing())
        if works:
            done = predict_bands.run(predict_bands.load(model), works)
            yield from (scene for scene in done if not scene.bands.missing())


IN_PROCESS = InProcess()


def predict(request: Request, predictor: Predictor = IN_PROCESS) -> Maps:
    """Map scenes: of each a Cloud-Optimised GeoTIFF with the source's CRS and transform, and a PNG beside it.

    Everything is checked before anything is predicted. Finished bands are kept beside the output until the map is
    whole. A scene's bytes follow from it, its area, the model, the device's kind and the settings, not from how the
    work was cut or spread.

    Raises ConfigError for settings that make no sense, and with CheckpointError for a run that has no model;
    SourceError for inputs that cannot be read; DataError for inputs whose bands or dtype are not the model's or whose
    CRS a GeoTIFF cannot hold, outputs that exist, cannot be written, are no .tif, would be written twice or take the
    place of an input, a disk without room, and where the model sees metres (`patches.pixel_m`) and an input's CRS gives
    none.
    """
    folder, _ = runs.locate(request.run, request.workdir, request.uri)
    trained = checkpoint.load(folder)
    with predictor.machines(request.cluster) as cluster:
        model = _model(replace(request, cluster=cluster), folder, trained)
        found, notes = targets.find(request, model, trained)
        todo = [target for target in found if not (request.resume and target.is_whole)]
        targets.begin(todo, request)
        written = _write(found, todo, model, trained.card, request, partial(predictor.predict, model, cluster=cluster))
    if len(written) == 1:
        return Maps(maps=written, mosaic=None, notes=notes)
    vrt = request.output / VRT
    try:
        notes += mosaic.write_vrt([one.output for one in written], vrt, overwrite=True)
    except NoMosaicError as error:
        return Maps(maps=written, mosaic=None, notes=(*notes, f"no mosaic: {error}"))
    return Maps(maps=written, mosaic=vrt, notes=notes)


def _model(request: Request, folder: Path, trained: Checkpoint) -> PredictionSettings:
    settings = trained.config.score
    settings = replace(settings, overlap=settings.overlap if request.overlap is None else request.overlap,
                       symmetries=request.symmetries or settings.symmetries)  # checked as any configuration is
    return PredictionSettings(
        folder=folder, device=request.cluster.device, cpus=request.cluster.cpus, overlap=settings.overlap,
        symmetries=settings.symmetries, confidence=request.confidence, probabilities=request.probabilities)


def _write(found: Sequence[Target], todo: Sequence[Target], model: PredictionSettings, card: ModelCard,
           request: Request, predict: Callable[[list[SceneToMap]], Generator[SceneToMap, None, None]]) -> list[Map]:
    """Make what is missing of maps. One is written while the next is predicted."""
    by_folder = {target.scene.bands.folder: target for target in todo}
    written: dict[Path, Future[Map]] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="swath-map") as pool:
        for target in found:
            if target.scene.bands.folder not in by_folder:
                written[target.output] = pool.submit(_derive, target, request, card)
        done = predict([target.scene for target in todo])
        with closing(done):
            for scene in done:
                target = by_folder[scene.bands.folder]
                written[target.output] = pool.submit(_finish, target, model, card, request)
                for earlier in written.values():
                    if earlier.done():
                        earlier.result()  # a disk that is full is told now
        return [written[target.output].result() for target in found]


def _finish(target: Target, model: PredictionSettings, card: ModelCard, request: Request) -> Map:
    """Make a scene's files of its bands. The map comes after its shares: where it stands, they do."""
    source, held = target.scene.source, target.scene.bands
    (top, bottom), (left, _) = target.scene.region
    transform = tuple(Affine(*source.transform) @ Affine.translation(left, top))[:6] if source.transform else None
    shape, tags = (bottom - top, held.width), {"SOURCE": source.name, JOB: bands.digest(target.job)}
    for path in target.stale:
        path.unlink(missing_ok=True)  # of the map that this one takes the place of
    for kind, layers in reversed(model.layers(len(card.classes)).items()):
        pieces = held.pieces(layers)
        if kind == "classes":
            geotiff.write_map(target.output, ((row, band_LhW[0]) for row, band_LhW in pieces), shape=shape,
                              crs=source.crs, transform=transform, names=card.classes, colours=card.colours,
                              nodata=card.ignore, tags=tags, overwrite=request.overwrite, scratch=held.folder)
        else:
            names = card.classes if kind == "probabilities" else ("confidence",)
            geotiff.write_probabilities(target.shares[kind], pieces, shape=shape, crs=source.crs, transform=transform,
                                 names=names, tags=tags, overwrite=request.overwrite or request.resume,
                                 scratch=held.folder)
    print_line(f"map {target.output}")
    return _derive(target, request, card)


def _derive(target: Target, request: Request, card: ModelCard) -> Map:
    """What is made of a finished map: its picture, its polygons, and how many pixels each class has."""
    target.scene.bands.clear()
    geotiff.quicklook(target.output, target.picture)
    others = dict(target.shares)
    if target.polygons:
        others["polygons"] = target.polygons
        polygons.write_polygons(target.output, target.polygons, simplify_px=request.simplify_px, overwrite=True)
    pixels_K = np.zeros(256, np.int64)
    with open_dataset(target.output) as raster:
        shape = raster.shape
        for _, window in raster.block_windows(1):
            pixels_K += np.bincount(raster.read(1, window=window).ravel(), minlength=256)
    return Map(name=target.scene.source.name, output=target.output, quicklook=target.picture, shape=shape,
               nodata=int(pixels_K[card.ignore]), others=others,
               class_pixels={name: int(n) for name, n in zip(card.classes, pixels_K, strict=False)})
