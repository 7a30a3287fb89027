"""From a folder of images and masks to a store: find the scenes, look at all headers, then write scene by scene.

Nothing is written before every file has been looked at. A scene that is refused while it is read (a mask value that is
no class) stays out, whole, and is reported; the others are ingested.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import patchstore
from patchstore import ClassInfo, MaskCoding, SceneReport, SceneSource, SourceError, StoreError
from patchstore.schema import colour
from swath.config import DataConfig
from swath.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Task:
    """One scene to write; plain values, since it may travel to another machine."""

    uri: str
    source: SceneSource
    coding: MaskCoding

    def run(self) -> SceneReport | str:
        """Write the scene: its report, or the reason why it was refused or could not be written."""
        try:
            return patchstore.ingest_scene(self.uri, self.source, self.coding)
        except (SourceError, StoreError) as error:
            return str(error)


Spread = Callable[[Sequence[Task]], Iterator[SceneReport | str]]
"""Runs tasks somewhere, and yields what each came to, in any order."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an ingest came to."""

    store: str
    scenes: int
    skipped: int
    """Scenes that were in the store already, unchanged."""
    pixels: int
    class_pixels: dict[str, int]
    ignored_values: dict[str, int]
    """Ignored pixels by the value that they have in the mask."""
    rejected: tuple[str, ...]
    """Why scenes were refused."""

    def check(self) -> None:
        """Raise SourceError, with every reason, when scenes were refused."""
        if self.rejected:
            first = f"{len(self.rejected)} scenes were refused; {self.store} is without them, or has them as before:"
            raise SourceError("\n".join([first, *self.rejected]))

    @property
    def ignored(self) -> int:
        """Pixels that carry no label."""
        return sum(self.ignored_values.values())

    @property
    def fractions(self) -> dict[str, float]:
        """Share of each class in all pixels, the ignored ones included."""
        return {name: count / max(1, self.pixels) for name, count in self.class_pixels.items()}


def run(data: DataConfig, spread: Spread) -> Report:
    """Ingest a source folder into a store.

    Raises ConfigError when the configuration does not say what is needed, SourceError and StoreError, before anything
    is written, when files do not fit each other or the store.
    """
    for field, value in (("data.source", data.source), ("data.store", data.store), ("data.classes", data.classes)):
        if not value:
            raise ConfigError(f"{field}: is empty; give --{field}")
    found = sources(data)
    infos = patchstore.check(found)
    classes = class_infos(data)
    coding = _coding(data, classes)
    uri = patchstore.create(data.store, dtype=infos[0].dtype, bands=infos[0].bands, classes=classes, chunk=data.chunk,
                            shard=data.shard, zstd=data.zstd)
    done: list[SceneReport] = []
    rejected: list[str] = []
    for result in spread([Task(uri=uri, source=source, coding=coding) for source in found]):
        if isinstance(result, str):
            rejected.append(result)
        else:
            done.append(result)
    ignored: Counter[str] = Counter()
    for scene in done:
        ignored.update(scene.ignored)
    return Report(
        store=uri, scenes=len(done), skipped=sum(scene.skipped for scene in done),
        pixels=sum(scene.pixels for scene in done), ignored_values=dict(ignored), rejected=tuple(sorted(rejected)),
        class_pixels={c.name: sum(scene.class_pixels[i] for scene in done) for i, c in enumerate(classes)})


def sources(data: DataConfig) -> list[SceneSource]:
    """The scenes of a source folder, by the configured adapter. Raises SourceError."""
    folder = Path(data.source).resolve()  # a task may run with another working directory
    if data.adapter == "tiles":
        return patchstore.find_tiles(folder)
    return patchstore.find_folder(folder, data.images, data.masks, data.group)


def one_by_one(tasks: Sequence[Task]) -> Iterator[SceneReport | str]:
    """Run tasks here, one after another."""
    return (task.run() for task in tasks)


def class_infos(data: DataConfig) -> list[ClassInfo]:
    """The configured classes."""
    pairs = (text.split("=") for text in data.classes)
    return [ClassInfo(name, colour(code)) for name, code in pairs]


def _coding(data: DataConfig, classes: Sequence[ClassInfo]) -> MaskCoding:
    try:
        return MaskCoding(kind=data.mask, classes=tuple(classes), ignored=data.ignored)
    except ValueError as error:
        raise ConfigError(f"data.classes, data.ignored: {error}") from None
