"""What a request for maps comes to: which scenes, where their maps go, and what must not be written."""

import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from patchstore.exports import check_crs, room_needed
from patchstore.sources import open_dataset
from swath.config import ClusterConfig
from swath.config.rules import check
from swath.errors import DataError
from swath.maps import bands, inputs
from swath.maps.bands import Bands
from swath.maps.inputs import Area, Input
from swath.maps.predict_bands import PredictionSettings, SceneToMap
from swath.models.checkpoint import Checkpoint
from swath.patches import planning

VRT = "maps.vrt"
JOB = "JOB"
"""Tag of a map that stands for what its pixels follow from."""
_ENDINGS = (".tif", ".tiff")
_SHARES = {"confidence": "_confidence.tif", "probabilities": "_probabilities.tif"}
_POLYGONS = ".parquet"


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
    """Polygons outside of which nothing is mapped."""
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

    def __post_init__(self) -> None:
        check(0 <= self.simplify_px < math.inf, "simplify", "0 or more", self.simplify_px)
        check(self.polygons or not self.simplify_px, "simplify", "0 without --polygons", self.simplify_px)


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A scene that is to be mapped, and where the map goes."""

    scene: SceneToMap
    output: Path
    job: Mapping[str, Any]
    """What the map's bytes follow from."""
    shares: dict[str, Path]
    """Where confidence and probabilities go, as far as they are wanted."""
    polygons: Path | None

    @property
    def picture(self) -> Path:
        """Where the picture goes."""
        return self.output.with_suffix(".png")

    @property
    def files(self) -> list[Path]:
        """All that is written."""
        return [self.output, self.picture, *self.shares.values(), *([self.polygons] if self.polygons else [])]

    @property
    def stale(self) -> list[Path]:
        """What an earlier job may have written beside the map, and this one does not write."""
        every = [self.output.with_name(self.output.stem + ending) for ending in (*_SHARES.values(), _POLYGONS)]
        return [path for path in every if path not in self.files]

    @property
    def is_whole(self) -> bool:
        """Whether the map, and the shares beside it, are there and follow from the same job."""
        for path in (self.output, *self.shares.values()):
            if not path.is_file():
                return False
            with open_dataset(path) as raster:
                if raster.tags().get(JOB) != bands.digest(self.job):
                    return False
        return True


def find(request: Request, model: PredictionSettings, trained: Checkpoint) -> tuple[list[Target], tuple[str, ...]]:
    """The scenes that are to be mapped, and notes on those that are not.

    Raises SourceError and DataError for inputs, an area, and outputs that make no sense (see `apply.predict`).
    """
    card = trained.card
    found = inputs.find(request.source, bands=card.bands, dtype=np.dtype(card.dtype))
    layers = model.layers(len(card.classes))
    polygons_of = _sha256(request.area) if request.area else None
    targets, notes = [], []
    for source, output in zip(found, _outputs(request, found), strict=True):
        planning.factors(trained.config.patches, source.pixel_m2, source.origin)
        check_crs(output, source.crs)
        area = inputs.area(request.area, source) if request.area else None
        if request.area and area is None:
            notes.append(f"{source.origin}: {request.area} does not touch it")
            continue
        job = _job(model, source, area, polygons_of)
        rows, cols = area.region if area else ((0, source.shape[0]), (0, source.shape[1]))
        held = Bands(folder=bands.folder_of(output, job), rows=rows, width=cols[1] - cols[0],
                     layers=sum(part.stop - part.start for part in layers.values()))
        targets.append(Target(
            scene=SceneToMap(source=source, area=area, bands=held), output=output, job=job,
            shares={name: output.with_name(output.stem + _SHARES[name]) for name in layers if name in _SHARES},
            polygons=output.with_suffix(_POLYGONS) if request.polygons else None))
    if not targets:
        raise DataError(f"{request.area}: touches none of the {len(found)} scenes of {request.source}; look at its CRS")
    _refuse(request, targets, {file for source in found for file in source.files})
    return targets, tuple(notes)


def begin(targets: Sequence[Target], request: Request) -> None:
    """Begin the bands of maps, or go on with those that are there. Raises DataError where bands of an earlier job would
    be lost without a word, and for a disk that has no room."""
    for target in targets:
        held = target.scene.bands
        there = len(held.ranges) - len(bands.cut(held.missing(), 1)) if held.folder.is_dir() else 0
        if there and not (request.resume or request.overwrite):
            raise DataError(f"{target.output}: an earlier job has left {there} of {len(held.ranges)} bands; go on with "
                            "--resume, or begin anew with --overwrite")
        for folder, differs in bands.others(target.output, target.job).items():
            if not request.overwrite:
                raise DataError(f"{folder}: was left by another job (its {', '.join(differs) or 'card'} differ); begin "
                                "anew with --overwrite, or end that job first")
            shutil.rmtree(folder, ignore_errors=True)
    _check_room(request.output, [target.scene.bands for target in targets], request.resume)
    for target in targets:
        target.scene.bands.begin(target.job, resume=request.resume)


def _outputs(request: Request, found: Sequence[Input]) -> list[Path]:
    """Where each scene's map goes."""
    if request.output.is_dir() or (len(found) > 1 and not request.output.suffix):
        return [request.output / f"{source.name}.tif" for source in found]
    if len(found) > 1:
        raise DataError(f"{request.output}: {request.source} is {len(found)} scenes; give a folder for their maps")
    if not request.output.suffix:
        return [request.output / f"{found[0].name}.tif"]
    if request.output.suffix.lower() not in _ENDINGS:
        raise DataError(f"{request.output}: a map is a GeoTIFF; give a name that ends in .tif, or a folder")
    return [request.output]


def _job(model: PredictionSettings, source: Input, area: Area | None, polygons_of: str | None) -> dict[str, Any]:
    """What a map's bytes follow from, as JSON can hold it.

    The number of threads is not in it: scores are the same bits with any (tried on CPU for three encoders).
    """
    return {"model": _sha256(model.folder / "manifest.json"), "source": source.fingerprint, "device": model.device,
            "overlap": model.overlap, "symmetries": model.symmetries, "confidence": model.confidence,
            "probabilities": model.probabilities, "region": area.region if area else None, "area": polygons_of}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def _refuse(request: Request, targets: Sequence[Target], sources: set[Path]) -> None:
    """Raise DataError for files that must not be written."""
    kept = {target.output for target in targets if request.resume and target.is_whole}
    files = [(path, target.output in kept or (request.resume and path != target.output))
             for target in targets for path in target.files]
    if len(targets) > 1:
        files.append((request.output / VRT, request.resume))
    twice = [path for path, count in Counter(path for path, _ in files).items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]}: would be written twice, for two of the scenes; map them into different folders")
    for path, may_be_there in files:
        if path.resolve() in sources:
            raise DataError(f"{path}: the map, or a file beside it, would take the place of a scene; give another "
                            "output")
        if path.is_dir() or (path.exists() and not request.overwrite and not may_be_there):
            raise DataError(f"{path}: exists already; give another output{'' if path.is_dir() else ', or --overwrite'}")


def _check_room(output: Path, every: Sequence[Bands], resume: bool) -> None:
    """Raise DataError where the disk has less room than all bands that are missing take, and the largest map while it
    is written. What is written then, compressed, is asked for map by map."""
    bands_bytes = sum((past - first) * each.width * each.layers for each in every
                      for first, past in (each.missing() if resume else [each.rows]))
    largest = max((room_needed((each.rows[1] - each.rows[0], each.width), bands=each.layers) for each in every),
                  default=0)
    needed = bands_bytes + largest
    folder = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(f"{output}: the maps may take {needed / 1e9:.2f} GB while they are made, and {folder} has "
                        f"{free / 1e9:.2f} GB free; make room, give another output, or map fewer scenes at once")
