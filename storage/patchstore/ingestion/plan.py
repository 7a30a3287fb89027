"""What an ingest of a scene will write: pure data, so that its parts can run in any process."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from patchstore.errors import SourceError, StoreError
from patchstore.format.conventions import pixel_m2
from patchstore.format.layout import Layout
from patchstore.format.schema import FORMAT, Scene, Settings, digest
from patchstore.format.windows import levels_of
from patchstore.sources.masks import MaskCoding
from patchstore.sources.raster import RasterInfo
from patchstore.sources.scene_reader import SceneReader
from patchstore.sources.scene_source import SceneSource


@dataclass(frozen=True, kw_only=True)
class ScenePlan:
    """One scene on its way into a store."""

    uri: str
    settings: Settings
    source: SceneSource
    coding: MaskCoding
    info: RasterInfo
    scene: Scene
    """The scene as it will be, but for what is counted while it is written."""
    stamps: tuple[tuple[int, int], ...]
    """Size and time of change of each source file, as it was when the fingerprint was taken."""

    @property
    def layout(self) -> Layout:
        """Where its arrays and shards lie."""
        return Layout(settings=self.settings, scene=self.scene)


def plan_scene(uri: str, settings: Settings, source: SceneSource, coding: MaskCoding | None = None) -> ScenePlan:
    """Look at a scene's files, and read them once for the fingerprint.

    Without a coding the mask's values are class indices. Raises SourceError when a file cannot be read or does not fit
    the store or its image, StoreError when the coding has other classes than the store.
    """
    coding = coding or MaskCoding(classes=settings.classes)
    if coding.classes != settings.classes:
        raise StoreError(f"{uri}: its classes are {_listed(settings)}, but the masks' are {_listed(coding)}; give the "
                         "store's classes, or another store")
    with SceneReader(source, coding, settings.ignore) as reader:
        stamps = stamps_of(reader.files())
        info, files, traits, notes = reader.info, reader.files(), reader.settings(), reader.notes
    if (info.bands, info.dtype) != (settings.bands, settings.dtype):
        raise SourceError(f"{source.image}: has {info.bands} bands of {info.dtype}, but the store {uri} has "
                          f"{settings.bands} of {settings.dtype}; convert it, or ingest it into another store")
    fingerprint = _fingerprint(settings, coding, info, [*map(_content, files), *traits])
    return ScenePlan(uri=uri, settings=settings, source=source, coding=coding, info=info, stamps=stamps, scene=Scene(
        name=source.name, shape=info.shape, crs=info.crs, transform=info.transform, group=source.group,
        origin=source.origin, fingerprint=fingerprint, version=fingerprint[:16], levels=levels_of(info.shape),
        has_mask=source.mask is not None, has_valid=info.has_valid, ignored=0, ignored_values=(), class_pixels=(),
        band_sums=(), pixel_m2=pixel_m2(info.crs, info.transform), notes=notes, manifest=""))


def stamps_of(files: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    """Size in bytes and time of change in ns of files. Raises SourceError when one is gone."""
    try:
        return tuple((stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in files))
    except OSError as error:
        raise SourceError(f"{error.filename}: cannot be read ({error})") from None


def _fingerprint(settings: Settings, coding: MaskCoding, info: RasterInfo, content: Sequence[str]) -> str:
    """Of the files' content, how it is read, where it lies and the store's settings: no path, no time.

    Values that are declared, or taken, as ignored are not in it: they decide whether a scene is accepted, not what it
    then holds. Else declaring one value of one mask would have every other scene written anew.
    """
    meaning = (coding.kind, coding.attribute, coding.background)
    return digest([str(FORMAT), *content, *meaning, *(json.dumps(asdict(part)) for part in (settings, info))])


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error})") from None


def _listed(classes: Settings | MaskCoding) -> str:
    return ", ".join(f"{info.name}={info.code}" for info in classes.classes)
