"""Ingest a folder of images and masks: find the scenes, check every header, then write scene by scene.

    report = ingest_folder("runs/mine.zarr", "photos/", classes={"road": "#5A5A5A", "field": "#C8B46E"})

    survey = survey_folder(uri, folder, …)     finds the scenes and reads all headers; writes nothing
    survey.preview()                           how large the store becomes, and how long writing takes
    survey.ingest(run=…)                       writes; `run` may spread the scenes over many machines

Nothing is written before every header was checked. A scene that is refused later, while its pixels are read (a mask
value that is no class), stays out as a whole and is reported; the others are ingested.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from patchstore.errors import PatchstoreError, SettingError, SourceError
from patchstore.format.schema import ClassInfo, Settings, colour
from patchstore.ingestion.estimates import Estimate, estimate
from patchstore.ingestion.scene import SceneReport, Steps, compare, create, ingest, steps
from patchstore.sources.adapters import Adapter, find
from patchstore.sources.masks import MaskCoding
from patchstore.sources.raster import RasterInfo
from patchstore.sources.scene_reader import inspect
from patchstore.sources.scene_source import SceneSource

Classes = Sequence[ClassInfo] | Mapping[str, str]
"""Classes in the order of their index, or {name: "#RRGGBB"}."""


@dataclass(frozen=True, kw_only=True)
class SceneTask:
    """One scene to write. Picklable."""

    uri: str
    source: SceneSource
    coding: MaskCoding

    def steps(self) -> Steps:
        """The steps that write the scene; each may run on another machine."""
        return steps(self.uri, self.source, self.coding)


Runner = Callable[[Sequence[SceneTask]], Iterator[SceneReport | str]]
"""Runs tasks somewhere; yields each scene's report, or the reason why it was refused, in any order."""


@dataclass(frozen=True, kw_only=True)
class FolderReport:
    """The result of an ingest."""

    store: str
    scenes: int
    states: dict[str, int]
    """Number of scenes that are new, changed and unchanged."""
    pixels: int
    class_pixels: dict[str, int]
    class_km2: dict[str, float] | None
    """Ground area of each class; None unless the pixel size of every scene is known."""
    ignored_values: dict[str, int]
    """Ignored pixels by their value in the mask."""
    notes: tuple[str, ...]
    """Changes that were made to files while they were read, by scene."""
    rejected: tuple[str, ...]
    """Files that could not be used, and scenes that were refused, with the reasons."""

    def check(self) -> None:
        """Raise SourceError, with every reason, when something was refused."""
        if self.rejected:
            raise SourceError("\n".join([
                f"{len(self.rejected)} files or scenes were refused; {self.store} does not have them, or keeps their "
                "earlier version (skip_bad accepts that):", *self.rejected]))

    @property
    def ignored(self) -> int:
        """Pixels without a label."""
        return sum(self.ignored_values.values())

    @property
    def fractions(self) -> dict[str, float]:
        """Share of each class in all pixels, the ignored ones included."""
        return {name: count / max(1, self.pixels) for name, count in self.class_pixels.items()}


@dataclass(frozen=True, kw_only=True)
class FolderPreview:
    """The expected result of an ingest."""

    store: str
    states: dict[str, int]
    """Number of scenes that would be new, changed and unchanged."""
    estimate: Estimate
    """For the new and the changed ones."""
    cores: int
    """Cores of this machine."""
    rejected: tuple[str, ...]
    """Files that cannot be used, with the reasons."""

    def check(self) -> None:
        """Raise SourceError, with every reason, when a file cannot be used."""
        if self.rejected:
            raise SourceError("\n".join([f"{len(self.rejected)} files cannot be used (skip_bad leaves them out):",
                                         *self.rejected]))


def one_by_one(tasks: Sequence[SceneTask]) -> Iterator[SceneReport | str]:
    """Run tasks in this process, one after another."""
    for task in tasks:
        try:
            yield ingest(task.uri, task.source, task.coding)
        except PatchstoreError as error:
            yield str(error)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The scenes of a folder whose headers fit one store."""

    uri: str
    settings: Settings
    """Of the store; the pixel type and the bands are those of most images."""
    coding: MaskCoding
    scenes: tuple[SceneSource, ...]
    rejected: tuple[str, ...]
    """Files that cannot be used, with the reasons."""

    def ingest(self, *, run: Runner = one_by_one, skip_bad: bool = False) -> FolderReport:
        """Write the scenes; `run` decides where.

        Raises SourceError, before anything is written, when files cannot be used, unless `skip_bad` leaves them out;
        StoreError when a store with other settings is there.
        """
        if self.rejected and not skip_bad:
            raise SourceError("\n".join([f"nothing was written, since {len(self.rejected)} files cannot be used "
                                         "(skip_bad leaves them out):", *self.rejected]))
        uri = create(self.uri, **{field.name: getattr(self.settings, field.name) for field in fields(Settings)})
        done: list[SceneReport] = []
        rejected = list(self.rejected)
        for result in run([SceneTask(uri=uri, source=source, coding=self.coding) for source in self.scenes]):
            if isinstance(result, str):
                rejected.append(result)
            else:
                done.append(result)
        return _report(uri, self.settings.classes, sorted(done, key=lambda scene: scene.name), sorted(rejected))

    def preview(self) -> FolderPreview:
        """Estimate size and time of `ingest`; reads sources and writes nothing.

        Raises StoreError when a store with other settings is there. Files that do not fit are listed.
        """
        rejected, states, to_write = list(self.rejected), Counter[str](), []
        for source in self.scenes:
            try:
                planned, state = compare(self.uri, self.settings, source, self.coding)
            except SourceError as error:
                rejected.append(str(error))
                continue
            states[state] += 1
            if state != "unchanged":
                to_write.append(planned)
        expected = estimate(to_write)
        return FolderPreview(store=self.uri, states=dict(states), estimate=expected, cores=os.cpu_count() or 1,
                             rejected=tuple(sorted((*rejected, *expected.refused))))


def ingest_folder(uri: str | os.PathLike[str], folder: str | os.PathLike[str], *, run: Runner = one_by_one,
                  skip_bad: bool = False, **settings: Any) -> FolderReport:
    """Ingest a folder of images and masks into a store: `survey_folder`, then `Survey.ingest`.

    `settings` are those of `survey_folder`. Scenes that the store already has are not written again. Call the report's
    `check` to raise for scenes that were refused. Raises as both functions do.
    """
    return survey_folder(uri, folder, **settings).ingest(run=run, skip_bad=skip_bad)


def survey_folder(uri: str | os.PathLike[str], folder: str | os.PathLike[str], *, classes: Classes = (),
                  adapter: str | Adapter = "folder", mask: Literal["index", "colour", "polygons"] = "index",
                  ignored: Sequence[str] = (), stray: Literal["error", "ignore"] = "error", attribute: str = "",
                  background: str = "", chunk: int = 256, shard: int = 2048, zstd: int = 1, **options: Any) -> Survey:
    """Find the scenes of a folder and read all headers; writes nothing.

    classes                  in the order of their index; empty: the adapter's own
    adapter, options         as `patchstore.find` takes them, `crs` and `align` among the options
    mask                     meaning of a mask's values, `MaskCoding.kind`
    ignored … background     as `MaskCoding` has them
    chunk, shard, zstd       as `Settings` has them

    Raises SettingError when a setting is missing or wrong, SourceError when no file can be used.
    """
    path = Path(folder).resolve()  # a task may run with another working directory
    found = find(adapter, path, **options)
    infos = _infos(classes) or found.classes
    if not infos and any(source.mask for source in found.scenes):
        raise SettingError(f"classes is empty, and the adapter {_named(adapter)} has none of its own; give the classes "
                           "of the masks")
    known = {info.code for info in infos} | set(ignored)
    try:
        coding = MaskCoding(kind=mask, classes=infos, stray=stray, attribute=attribute, background=background,
                            ignored=(*ignored, *(value for value in found.ignored if value not in known)))
    except ValueError as error:
        raise SettingError(str(error)) from None
    fitting, rejected = _fitting(path, found.scenes, coding, found.rejected)
    (bands, dtype), scenes = fitting
    try:
        settings = Settings(dtype=dtype, bands=bands, classes=infos, chunk=chunk, shard=shard, zstd=zstd)
    except ValueError as error:
        raise SettingError(str(error)) from None
    return Survey(uri=os.fspath(uri), coding=coding, scenes=scenes, settings=settings, rejected=rejected)


def _infos(classes: Classes) -> tuple[ClassInfo, ...]:
    if not isinstance(classes, Mapping):
        return tuple(classes)
    try:
        return tuple(ClassInfo(name, colour(code)) for name, code in classes.items())
    except ValueError as error:
        raise SettingError(f"classes: {error}") from None


def _named(adapter: str | Adapter) -> str:
    return adapter if isinstance(adapter, str) else getattr(adapter, "__name__", repr(adapter))


def _fitting(folder: Path, sources: Sequence[SceneSource], coding: MaskCoding, rejected: Sequence[str]
             ) -> tuple[tuple[tuple[int, str], tuple[SceneSource, ...]], tuple[str, ...]]:
    """(((bands, dtype), the scenes that have them), refusals): a store holds one kind of pixels, the commonest."""
    good: list[tuple[SceneSource, RasterInfo]] = []
    refusals = list(rejected)
    for source in sources:
        try:
            good.append((source, inspect(source, coding)))
        except SourceError as error:
            refusals.append(str(error))
    if not good:
        raise SourceError("\n".join([f"{folder}: none of the files can be used:", *refusals]))
    kind, _ = Counter((info.bands, info.dtype) for _, info in good).most_common(1)[0]
    refusals += [f"{source.image}: has {info.bands} bands of {info.dtype}, but most have {kind[0]} of {kind[1]}; one "
                 "store holds one kind" for source, info in good if (info.bands, info.dtype) != kind]
    return (kind, tuple(source for source, info in good if (info.bands, info.dtype) == kind)), tuple(refusals)


def _report(uri: str, classes: Sequence[ClassInfo], done: Sequence[SceneReport], rejected: Sequence[str]
            ) -> FolderReport:
    ignored: Counter[str] = Counter()
    for scene in done:
        ignored.update(scene.ignored)
    areas = [scene.pixel_m2 for scene in done if scene.pixel_m2 is not None]
    km2 = {c.name: sum(area * scene.class_pixels[i] for area, scene in zip(areas, done)) / 1e6
           for i, c in enumerate(classes)} if len(areas) == len(done) else None
    return FolderReport(
        store=uri, scenes=len(done), states=dict(Counter(scene.state for scene in done)), class_km2=km2,
        pixels=sum(scene.pixels for scene in done), ignored_values=dict(ignored), rejected=tuple(rejected),
        class_pixels={c.name: sum(scene.class_pixels[i] for scene in done) for i, c in enumerate(classes)},
        notes=tuple(f"{scene.name}: {note}" for scene in done for note in scene.notes))
