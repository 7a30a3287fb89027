"""Apply a trained model: maps of scenes, from files that were never ingested or from a store."""

import hashlib
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rasterio.transform import Affine

from patchstore.cog import room_needed
from patchstore.raster import open_dataset
from swath import bands, checkpoint, inputs, mapping, maps, mosaic, patches, polygons, ray_predict
from swath.bands import Bands
from swath.checkpoint import Card, Checkpoint
from swath.config import ClusterConfig
from swath.console import say
from swath.errors import DataError
from swath.evaluate import locate
from swath.inputs import Area, Input
from swath.mapping import Model, Scene

_ENDINGS = (".tif", ".tiff")
_JOB = "JOB"
"""Tag of a map that stands for what its pixels follow from."""
VRT = "maps.vrt"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be mapped, by which model, and what is wanted of it."""

    run: str
    """MLflow run id, or a checkpoint folder."""
    source: str
    """A raster, a folder of some, a glob, a store, or STORE/SCENE."""
    output: Path
    """GeoTIFF to write, or for several scenes a folder."""
    workdir: Path
    """Folder of the default tracking store."""
    uri: str = ""
    """MLflow tracking store."""
    area: Path | None = None
    """Polygons outside of which nothing is predicted."""
    overlap: float | None = None
    """Share of a window's side that it has in common with its neighbour; None: as the model's runs are scored."""
    symmetries: Literal[1, 8] | None = None
    """Symmetries of the square that scores are averaged over; None: as the model's runs are scored."""
    confidence: bool = False
    """Also write the largest probability of each pixel."""
    probabilities: bool = False
    """Also write the probability of each class."""
    polygons: bool = False
    """Also write polygons of the classes."""
    simplify_px: float = 0.0
    """How far a polygon's outline may move, in pixels."""
    cluster: ClusterConfig = dataclass_field(default_factory=ClusterConfig)
    """Workers, their device and cores, and the Ray cluster."""
    resume: bool = False
    """Go on where an earlier job ended."""
    overwrite: bool = False
    """Take the place of maps that exist."""


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
    """VRT over them, where there are several."""
    notes: tuple[str, ...]
    """What a person should know: inputs that the area does not touch, maps that the mosaic leaves out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Target:
    """A scene that is to be mapped, and where the map goes."""

    scene: Scene
    output: Path
    job: Mapping[str, Any]
    """What the map's bytes follow from."""

    def beside(self, ending: str) -> Path:
        """A file beside the map."""
        return self.output.with_name(self.output.stem + ending)


def predict(request: Request) -> Maps:
    """Map scenes: of each a Cloud-Optimised GeoTIFF with the source's CRS and transform, and a PNG beside it.

    Everything is checked before anything is predicted. Finished bands are kept beside the output until the map is
    whole. A scene's bytes follow from it, its area, the model and the settings, not from how the work was spread.

    Raises ConfigError and CheckpointError for a run that has no model; SourceError for inputs that cannot be read;
    DataError for inputs whose bands or dtype are not the model's, outputs that exist, cannot be written, are no .tif,
    or would take the place of an input, a disk without room, and where the model sees metres (`patches.pixel_m`) and an
    input's CRS gives none.
    """
    folder, _ = locate(request.run, request.workdir, request.uri)
    trained = checkpoint.load(folder)
    model = _model(request, folder, trained)
    targets, notes = _targets(request, model, trained)
    todo = [target for target in targets if not (request.resume and _is_whole(target))]
    _begin(todo, request)
    by_folder = {target.scene.bands.folder: target for target in todo}
    with closing(_done(model, [target.scene for target in todo], request.cluster)) as done:
        for scene in done:
            _finish(by_folder[scene.bands.folder], request, model, trained.card)
            say(f"map {by_folder[scene.bands.folder].output}")
    written = [_derive(target, request, trained.card) for target in targets]
    if len(written) == 1:
        return Maps(maps=written, mosaic=None, notes=notes)
    vrt = request.output / VRT
    return Maps(maps=written, mosaic=vrt, notes=notes + mosaic.write_vrt(
        [one.output for one in written], vrt, overwrite=True))


def _model(request: Request, folder: Path, trained: Checkpoint) -> Model:
    settings = trained.config.score
    return Model(folder=folder, device=request.cluster.device, cpus=request.cluster.cpus,
                 overlap=settings.overlap if request.overlap is None else request.overlap,
                 symmetries=request.symmetries or settings.symmetries, confidence=request.confidence,
                 probabilities=request.probabilities)


def _done(model: Model, scenes: Sequence[Scene], cluster: ClusterConfig) -> Generator[Scene, None, None]:
    """Predict what is missing of scenes; each when all of it is there."""
    if cluster.workers > 1 or cluster.address:
        yield from ray_predict.spread(model, scenes, cluster)
        return
    works = [(scene, scene.bands.rows) for scene in scenes if scene.bands.missing()]
    yield from (scene for scene in scenes if not scene.bands.missing())
    if works:
        yield from (scene for scene in mapping.run(mapping.load(model), works) if not scene.bands.missing())


def _targets(request: Request, model: Model, trained: Checkpoint) -> tuple[list[_Target], tuple[str, ...]]:
    """The scenes that are to be mapped, and notes on those that are not."""
    card = trained.card
    found = inputs.find(request.source, bands=card.bands, dtype=np.dtype(card.dtype))
    outputs = _outputs(request, found)
    targets, notes = [], []
    for source, output in zip(found, outputs, strict=True):
        patches.factors(trained.config.patches, source.pixel_m2, source.origin)
        area = inputs.area(request.area, source) if request.area else None
        if request.area and area is None:
            notes.append(f"{source.origin}: {request.area} does not touch it")
            continue
        rows, cols = area.region if area else ((0, source.shape[0]), (0, source.shape[1]))
        layers = sum(part.stop - part.start for part in model.layers(len(card.classes)).values())
        held = Bands(folder=output.with_name(f".{output.name}.bands"), rows=rows, width=cols[1] - cols[0],
                     layers=layers)
        targets.append(_Target(scene=Scene(source=source, area=area, bands=held), output=output,
                               job=_job(model, source, area, request.area)))
    if not targets:
        raise DataError(f"{request.area}: touches none of the {len(found)} scenes of {request.source}; look at its CRS")
    return targets, tuple(notes)


def _outputs(request: Request, found: Sequence[Input]) -> list[Path]:
    """Where each scene's map goes."""
    if request.output.suffix.lower() not in _ENDINGS:
        if len(found) == 1 and request.output.suffix:
            raise DataError(f"{request.output}: a map is a GeoTIFF; give a name that ends in .tif, or a folder")
        return [request.output / f"{source.name}.tif" for source in found]
    if len(found) > 1:
        raise DataError(f"{request.output}: {request.source} is {len(found)} scenes; give a folder for their maps")
    return [request.output]


def _job(model: Model, source: Input, area: Area | None, polygons_of: Path | None) -> dict[str, Any]:
    """What a map's bytes follow from, as JSON can hold it."""
    return {"model": _sha256(model.folder / "manifest.json"), "source": source.fingerprint, "device": model.device,
            "overlap": model.overlap, "symmetries": model.symmetries, "confidence": model.confidence,
            "probabilities": model.probabilities, "region": area.region if area else None,
            "area": _sha256(polygons_of) if polygons_of else None}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(target: _Target) -> bool:
    """Whether a map is there that follows from the same job."""
    if not target.output.exists():
        return False
    with open_dataset(target.output) as raster:
        return bool(raster.tags().get(_JOB) == bands.digest(target.job))


def _begin(targets: Sequence[_Target], request: Request) -> None:
    """Refuse outputs that must not be written, a disk that has no room for them, and begin the bands."""
    sources = {target.scene.source.path.resolve() for target in targets if target.scene.source.path}
    for target in targets:
        files = [target.output, target.beside(".png"), *_others(target, request).values()]
        for path in files:
            if path.resolve() in sources:
                raise DataError(f"{path}: the map, or a file beside it, would take the place of a scene; give another "
                                "output")
            if path.exists() and not request.overwrite and not (request.resume and path != target.output):
                raise DataError(f"{path}: exists already; give another output, or --overwrite")
    _check_room(request.output, [target.scene.bands for target in targets])
    for target in targets:
        target.scene.bands.begin(target.job, resume=request.resume)


def _check_room(output: Path, every: Sequence[Bands]) -> None:
    """Raise DataError where the disk has less room than the maps can take: all of them as they are written at the
    worst, the bands of all, and what the largest needs while it is written."""
    sizes = [(each.rows[1] - each.rows[0]) * each.width * each.layers for each in every]
    largest = max((room_needed((each.rows[1] - each.rows[0], each.width), bands=each.layers) for each in every),
                  default=0)
    needed = 2 * sum(sizes) + largest
    folder = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(f"{output}: the maps may take {needed / 1e9:.2f} GB while they are made, and {folder} has "
                        f"{free / 1e9:.2f} GB free; make room, give another output, or map fewer scenes at once")


def _others(target: _Target, request: Request) -> dict[str, Path]:
    """Further files that are wanted beside a map."""
    wanted = {"confidence": (request.confidence, "_confidence.tif"),
              "probabilities": (request.probabilities, "_probabilities.tif"),
              "polygons": (request.polygons, ".parquet")}
    return {name: target.beside(ending) for name, (asked, ending) in wanted.items() if asked}


def _finish(target: _Target, request: Request, model: Model, card: Card) -> None:
    """Make a scene's files of its bands. The map comes last: where it stands, the others do."""
    source, held = target.scene.source, target.scene.bands
    (top, bottom), (left, _) = target.scene.region
    transform = tuple(Affine(*source.transform) @ Affine.translation(left, top))[:6] if source.transform else None
    shape, tags = (bottom - top, held.width), {"SOURCE": source.name, _JOB: bands.digest(target.job)}
    others = _others(target, request)
    for kind, layers in reversed(model.layers(len(card.classes)).items()):
        pieces = held.pieces(layers)
        if kind == "classes":
            maps.write_map(target.output, ((row, band_LhW[0]) for row, band_LhW in pieces), shape=shape, crs=source.crs,
                           transform=transform, names=card.classes, colours=card.colours, nodata=card.ignore, tags=tags)
        else:
            names = card.classes if kind == "probabilities" else ("confidence",)
            maps.write_shares(others[kind], pieces, shape=shape, crs=source.crs, transform=transform, names=names,
                              tags=tags, overwrite=True)
    held.clear()


def _derive(target: _Target, request: Request, card: Card) -> Map:
    """What is made of a finished map: its picture, its polygons, and how many pixels each class has."""
    others = _others(target, request)
    maps.quicklook(target.output, target.beside(".png"))
    if "polygons" in others:
        polygons.write_polygons(target.output, others["polygons"], simplify_px=request.simplify_px, overwrite=True)
    pixels_K = np.zeros(256, np.int64)
    with open_dataset(target.output) as raster:
        shape = raster.shape
        for _, window in raster.block_windows(1):
            pixels_K += np.bincount(raster.read(1, window=window).ravel(), minlength=256)
    return Map(name=target.scene.source.name, output=target.output, quicklook=target.beside(".png"), shape=shape,
               nodata=int(pixels_K[card.ignore]), others=others,
               class_pixels={name: int(n) for name, n in zip(card.classes, pixels_K, strict=False)})
