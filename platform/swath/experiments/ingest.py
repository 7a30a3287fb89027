"""From a folder of images and masks to a store: find the scenes, look at all headers, then write scene by scene.

Nothing is written before every file has been looked at. A scene that is refused while it is read (a mask value that is
no class) stays out, whole, and is reported; the others are ingested.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import patchstore
from patchstore import (
    ClassInfo,
    Estimate,
    Found,
    MaskCoding,
    PatchstoreError,
    RasterInfo,
    SceneReport,
    SceneSource,
    Settings,
    SourceError,
    Steps,
)
from patchstore.format.schema import colour
from swath import extensions
from swath.config import LAYOUT, DataConfig
from swath.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Task:
    """One scene to write."""

    uri: str
    source: SceneSource
    coding: MaskCoding

    def steps(self) -> Steps:
        """What is to be done, step by step; each may run on another machine."""
        return patchstore.steps(self.uri, self.source, self.coding)


Spread = Callable[[Sequence[Task]], Iterator[SceneReport | str]]
"""Runs the steps of tasks somewhere; yields each scene's report, or the reason why it was refused, in any order."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an ingest came to."""

    store: str
    scenes: int
    states: dict[str, int]
    """How many of them are new, changed, and unchanged."""
    pixels: int
    class_pixels: dict[str, int]
    class_km2: dict[str, float] | None
    """Ground area of each class; None where not every scene's pixel size is known."""
    ignored_values: dict[str, int]
    """Ignored pixels by the value that they have in the mask."""
    notes: tuple[str, ...]
    """What was done to files, by scene."""
    rejected: tuple[str, ...]
    """Files that could not be used, and scenes that were refused, with the reasons."""

    def check(self) -> None:
        """Raise SourceError, with every reason, when something was refused."""
        if self.rejected:
            raise SourceError("\n".join([f"{len(self.rejected)} files or scenes were refused; {self.store} is without "
                                         "them, or has them as before (--skip-bad takes that for success):",
                                         *self.rejected]))

    @property
    def skipped(self) -> int:
        """Scenes that were in the store already, unchanged."""
        return self.states.get("unchanged", 0)

    @property
    def ignored(self) -> int:
        """Pixels that carry no label."""
        return sum(self.ignored_values.values())

    @property
    def fractions(self) -> dict[str, float]:
        """Share of each class in all pixels, the ignored ones included."""
        return {name: count / max(1, self.pixels) for name, count in self.class_pixels.items()}


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What an ingest would do."""

    store: str
    states: dict[str, int]
    """How many scenes would be new, would change, and are there already."""
    estimate: Estimate
    """Of the new and the changed ones."""
    cores: int
    """Cores of this machine."""
    rejected: tuple[str, ...]
    """Files that cannot be used, with the reasons."""

    def check(self) -> None:
        """Raise SourceError, with every reason, when a file cannot be used."""
        if self.rejected:
            raise SourceError("\n".join([f"{len(self.rejected)} files cannot be used (--skip-bad leaves them out):",
                                         *self.rejected]))


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """What a look at all headers found."""

    coding: MaskCoding
    scenes: tuple[SceneSource, ...]
    settings: Settings
    rejected: tuple[str, ...]


def run(data: DataConfig, spread: Spread, *, skip_bad: bool = False) -> Report:
    """Ingest a source folder into a store.

    Raises ConfigError when the configuration does not say what is needed; StoreError when a store of another kind is
    there; SourceError when files do not fit each other or the store, unless `skip_bad` leaves them out. Nothing is
    written then.
    """
    survey = _survey(data)
    if survey.rejected and not skip_bad:
        raise SourceError("\n".join([f"nothing was written, since {len(survey.rejected)} files cannot be used "
                                     "(--skip-bad leaves them out):", *survey.rejected]))
    uri = patchstore.create(data.store, **{field.name: getattr(survey.settings, field.name)
                                           for field in fields(Settings)})
    done: list[SceneReport] = []
    rejected = list(survey.rejected)
    for result in spread([Task(uri=uri, source=source, coding=survey.coding) for source in survey.scenes]):
        if isinstance(result, str):
            rejected.append(result)
        else:
            done.append(result)
    return _report(uri, survey.settings.classes, sorted(done, key=lambda scene: scene.name), sorted(rejected))


def preview(data: DataConfig) -> Preview:
    """What `run` would do, how large that is and how long it takes; reads the sources, and writes nothing.

    Raises as `run` does, but for files that do not fit, which are listed.
    """
    survey = _survey(data)
    rejected, states, to_write = list(survey.rejected), Counter[str](), []
    for source in survey.scenes:
        try:
            ingest, state = patchstore.compare(data.store, survey.settings, source, survey.coding)
        except SourceError as error:
            rejected.append(str(error))
            continue
        states[state] += 1
        if state != "unchanged":
            to_write.append(ingest)
    estimate = patchstore.estimate(to_write)
    return Preview(store=data.store, states=dict(states), estimate=estimate, cores=os.cpu_count() or 1,
                   rejected=tuple(sorted((*rejected, *estimate.refused))))


def one_by_one(tasks: Sequence[Task]) -> Iterator[SceneReport | str]:
    """Run tasks here, one after another."""
    for task in tasks:
        try:
            yield patchstore.ingest_scene(task.uri, task.source, task.coding)
        except PatchstoreError as error:
            yield str(error)


def class_infos(data: DataConfig) -> list[ClassInfo]:
    """The configured classes."""
    pairs = (text.split("=") for text in data.classes)
    return [ClassInfo(name, colour(code)) for name, code in pairs]


def _survey(data: DataConfig) -> _Survey:
    for field, value in (("data.source", data.source), ("data.store", data.store)):
        if not value:
            raise ConfigError(f"{field}: is empty; give --{field}")
    found = sources(data)
    classes = tuple(class_infos(data)) or found.classes
    if not classes and any(source.mask for source in found.scenes):
        raise ConfigError(f"data.classes: is empty, and the adapter {data.adapter} knows none; give --data.classes")
    coding = _coding(data, classes, found.ignored)
    good: list[tuple[SceneSource, RasterInfo]] = []
    rejected = list(found.rejected)
    for source in found.scenes:
        try:
            good.append((source, patchstore.inspect(source, coding)))
        except SourceError as error:
            rejected.append(str(error))
    if not good:
        raise SourceError("\n".join([f"{data.source}: none of the files can be used:", *rejected]))
    # A store holds one kind of pixels: the commonest.
    (bands, dtype), _ = Counter((info.bands, info.dtype) for _, info in good).most_common(1)[0]
    rejected += [f"{source.image}: has {info.bands} bands of {info.dtype}, but most have {bands} of {dtype}; one store "
                 "holds one kind" for source, info in good if (info.bands, info.dtype) != (bands, dtype)]
    scenes = tuple(source for source, info in good if (info.bands, info.dtype) == (bands, dtype))
    try:
        settings = Settings(dtype=dtype, bands=bands, classes=classes, chunk=data.chunk, shard=data.shard,
                            zstd=data.zstd)
    except ValueError as error:
        raise ConfigError(f"{data.source}: {error}") from None
    return _Survey(coding=coding, scenes=scenes, settings=settings, rejected=tuple(rejected))


def _report(uri: str, classes: Sequence[ClassInfo], done: Sequence[SceneReport], rejected: Sequence[str]) -> Report:
    ignored: Counter[str] = Counter()
    for scene in done:
        ignored.update(scene.ignored)
    areas = [scene.pixel_m2 for scene in done if scene.pixel_m2 is not None]
    km2 = {c.name: sum(area * scene.class_pixels[i] for area, scene in zip(areas, done)) / 1e6
           for i, c in enumerate(classes)} if len(areas) == len(done) else None
    return Report(
        store=uri, scenes=len(done), states=dict(Counter(scene.state for scene in done)), class_km2=km2,
        pixels=sum(scene.pixels for scene in done), ignored_values=dict(ignored), rejected=tuple(rejected),
        class_pixels={c.name: sum(scene.class_pixels[i] for scene in done) for i, c in enumerate(classes)},
        notes=tuple(f"{scene.name}: {note}" for scene in done for note in scene.notes))


def sources(data: DataConfig) -> Found:
    """What the configured adapter finds in the source folder. Raises SourceError."""
    folder = Path(data.source).resolve()  # a task may run with another working directory
    layout = {name: getattr(data, name) for name in LAYOUT} if data.adapter == "folder" else {}
    adapter = extensions.resolve(data.adapter, "data.adapter") if extensions.is_path(data.adapter) else data.adapter
    return patchstore.find(adapter, folder, crs=data.crs, align=data.align, **layout)


def _coding(data: DataConfig, classes: Sequence[ClassInfo], ignored: Sequence[str]) -> MaskCoding:
    """The meaning of masks' values; `ignored`: what the set itself says is no class, unless it is made one."""
    known = {info.code for info in classes} | set(data.ignored)
    try:
        return MaskCoding(kind=data.mask, classes=tuple(classes), stray=data.stray, attribute=data.attribute,
                          background=data.background,
                          ignored=(*data.ignored, *(value for value in ignored if value not in known)))
    except ValueError as error:
        raise ConfigError(f"data.classes, data.ignored: {error}") from None
