"""Writing a store: create it, then ingest scene by scene, in steps that can run anywhere and in any process.

    plan = prepare(uri, source, coding)     what is to be written (the sources are read once, for the fingerprint)
    write_metadata(plan)                    metadata of the arrays, coordinates
    write_band(plan, i)                     a band of shards of full resolution, with its counts and moments
    write_levels(plan, part)                shards of coarser levels, when all bands are there
    finish(plan, written)                   manifest, then the scene's attributes: from here on it is visible

`steps` says which may run side by side. No file has two writers, and the bytes depend on the sources' content and the
settings alone: what was cut off at any moment is written again, the same. Other scenes are never touched.
"""

import ctypes
import os
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from patchstore.errors import StoreError
from patchstore.format import locations, manifest
from patchstore.format.catalog import load_settings, need_settings, parse_scene
from patchstore.format.manifest import Files, describe
from patchstore.format.schema import META, ClassInfo, Scene, Settings, group_json
from patchstore.ingestion.plan import ScenePlan, plan_scene
from patchstore.ingestion.shards import Written, write_band, write_levels, write_metadata
from patchstore.sources.masks import MaskCoding
from patchstore.sources.scene_source import SceneSource

_COUNTED = ("ignored", "ignored_values", "class_pixels", "band_sums", "manifest")
"""What is known of a scene only when it has been written."""
_M_ARENA_MAX = -8
"""glibc's malloc.h."""
State = Literal["new", "changed", "unchanged"]
Step = Callable[[], Any]
"""A picklable piece of work."""
Steps = Generator[Sequence[Step], Sequence[Any], "SceneReport"]
"""Yields steps that may run side by side, and is sent what each returned, in order."""


@dataclass(frozen=True, kw_only=True)
class SceneReport:
    """What an ingest did with one scene."""

    name: str
    state: State
    """Whether the store had the scene already: not at all, in another version, or this very one."""
    pixels: int
    class_pixels: tuple[int, ...]
    """Pixels of each class."""
    pixel_m2: float | None
    """Ground area of a pixel in square metres, where it is known."""
    ignored: Mapping[str, int]
    """Pixels that the mask ignores, by the source's value: #RRGGBB, index, or nodata."""
    notes: tuple[str, ...]
    """What was done to the source's files."""


def create(uri: str | os.PathLike[str], *, dtype: Any, bands: int, classes: Sequence[ClassInfo], ignore: int = 255,
           chunk: int = 256, shard: int = 2048, zstd: int = 1) -> str:
    """Create a store, or take the one that is there and has the same settings; returns its URI.

    Raises StoreError when a store of other settings, or something else, is there; ValueError when a setting is wrong.
    """
    uri = locations.normal(uri)
    settings = Settings(dtype=str(np.dtype(dtype)), bands=bands, classes=tuple(classes), ignore=ignore, chunk=chunk,
                        shard=shard, zstd=zstd)
    folder = locations.Folder(uri)
    if not _agreed(folder, settings):
        folder.update(META, lambda content: group_json(settings.to_json()) if content is None else None)
        _agreed(folder, settings)  # somebody else may have been faster
    return uri


def compare(uri: str | os.PathLike[str], settings: Settings, source: SceneSource, coding: MaskCoding
            ) -> tuple[ScenePlan, State]:
    """What is to be written of a scene into a store that may not be there yet, and whether that is new to it.

    Raises StoreError when a store of other settings is there, and as `prepare` does.
    """
    uri = locations.normal(uri)
    _agreed(locations.Folder(uri), settings)
    plan = plan_scene(uri, settings, source, coding)
    return plan, _state(stored(plan), plan)


def prepare(uri: str | os.PathLike[str], source: SceneSource, coding: MaskCoding | None = None) -> ScenePlan:
    """Plan the ingest of a scene into a store; see `plan_scene` for what it raises."""
    uri = locations.normal(uri)
    return plan_scene(uri, need_settings(locations.Folder(uri)), source, coding)


def stored(plan: ScenePlan) -> Scene | None:
    """The scene as the store has it, of whatever content. One whose attributes are torn is not there."""
    name = plan.scene.name
    return _parsed(plan.uri, name, locations.Folder(plan.uri).read([f"{name}/{META}"])[0])


def steps(uri: str | os.PathLike[str], source: SceneSource, coding: MaskCoding | None = None) -> Steps:
    """The steps that write a scene into a store that `create` has made; without a coding its mask has class indices.

    A scene that the store has already is not written again; a group or origin that changed is noted. What the steps
    raise: SourceError when a file cannot be read, does not fit, or has mask values that nobody declared; StoreError
    when there is no store or it cannot be written.
    """
    plan, = yield [partial(prepare, uri, source, coding)]
    there = stored(plan)
    state = _state(there, plan)
    if there is not None and state == "unchanged":
        new = replace(there, group=plan.scene.group, origin=plan.scene.origin)
        if new != there:
            new = _publish(plan.uri, new)
        return _report(new, state)
    files, = yield [partial(write_metadata, plan)]
    bands: Sequence[Written] = yield [partial(write_band, plan, i) for i in range(plan.layout.bands_of_shards)]
    levels: Sequence[Written] = yield [partial(write_levels, plan, part) for part in plan.layout.level_parts]
    scene, = yield [partial(finish, plan, files, bands, levels)]
    return _report(scene, state)


def finish(plan: ScenePlan, metadata: Files, bands: Sequence[Written], levels: Sequence[Written]) -> Scene:
    """Write the manifest and then the scene's attributes, with the totals of what was written.

    Raises StoreError, also when what was written is not there any more.
    """
    files = dict(metadata)
    ignored: Counter[str] = Counter()
    for written in (*bands, *levels):
        files |= written.files
        ignored.update(written.ignored)
    listed, folder = manifest.to_json(files), locations.Folder(plan.uri)
    place = f"{plan.scene.name}/{plan.scene.version}"
    if not {f"{place}/{path}" for path in files} <= set(folder.keys(place)):
        raise StoreError(f"{plan.uri}: scene {plan.scene.name} was removed while it was written; ingest it again")
    scene = replace(
        plan.scene, ignored=sum(ignored.values()), ignored_values=tuple(sorted(ignored.items())),
        class_pixels=tuple(map(sum, zip(*(band.class_pixels for band in bands)))),
        band_sums=tuple((n, total, squares) for n, total, squares in
                        np.sum([band.band_sums for band in bands], axis=0).tolist()),
        manifest=describe(listed).sha256)
    folder.write(f"{place}/{manifest.PLACE}", listed)
    return _publish(plan.uri, scene)


def side_by_side(work: Sequence[Step]) -> list[Any]:
    """Run steps here, two bands at once: one decodes and counts while the other is compressed and written."""
    levels = any(isinstance(step, partial) and step.func is write_levels for step in work)  # has threads of its own
    with ThreadPoolExecutor(1 if levels else 2) as pool:
        running = [pool.submit(_trimmed, step) for step in work]
        try:
            return [future.result() for future in running]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _trimmed(step: Step) -> Any:
    """Run a step, and give the memory that it has freed back.

    glibc keeps what each thread frees for that thread, in up to eight arenas a core: an ingest of many bands would come
    to hold half as much again as one of few (measured), so that there are two arenas at most, and they are emptied.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.mallopt(_M_ARENA_MAX, 2)
        result = step()
        libc.malloc_trim(0)
        return result
    return step()


def ingest(uri: str | os.PathLike[str], source: SceneSource, coding: MaskCoding | None = None,
           run: Callable[[Sequence[Step]], Sequence[Any]] = side_by_side) -> SceneReport:
    """Write a scene into a store; `run` runs steps that may run side by side. See `steps` for what is raised."""
    work = steps(uri, source, coding)
    ready = next(work)
    while True:
        try:
            ready = work.send(run(ready))
        except StopIteration as end:
            report: SceneReport = end.value
            return report


def _parsed(uri: str, name: str, content: bytes | None) -> Scene | None:
    try:
        return None if content is None else parse_scene(uri, name, content)
    except StoreError:  # to be written again is what its message asks for
        return None


def _agreed(folder: locations.Folder, settings: Settings) -> bool:
    """Whether a store is there already. Raises StoreError when it has other settings."""
    there = load_settings(folder)
    for field in fields(Settings) if there is not None else ():
        old, new = getattr(there, field.name), getattr(settings, field.name)
        if old != new:
            raise StoreError(f"{folder.uri}: the store there has {field.name} {_shown(old)}, not {_shown(new)}; give "
                             "the same, or another place for a new store")
    return there is not None


def _state(there: Scene | None, plan: ScenePlan) -> State:
    """A scene whose attributes or manifest are not what was once written counts as changed, so that it is mended."""
    if there is None:
        return "new"
    same = replace(there, group="", origin=(0, 0), superseded=()) == replace(
        plan.scene, group="", origin=(0, 0), **{name: getattr(there, name) for name in _COUNTED})
    content = locations.Folder(plan.uri).read([f"{there.name}/{there.version}/{manifest.PLACE}"])[0]
    whole = content is not None and describe(content).sha256 == there.manifest
    return "unchanged" if same and whole else "changed"


def _publish(uri: str, scene: Scene) -> Scene:
    """Write a scene's attributes, which know of the version that was there until now; returns the scene with that."""
    written = scene

    def change(content: bytes | None) -> bytes:
        nonlocal written
        there = _parsed(uri, scene.name, content)
        earlier = () if there is None else (*there.superseded, there.version)
        written = replace(scene, superseded=tuple(v for v in dict.fromkeys(earlier) if v != scene.version))
        return group_json(written.to_json())

    locations.Folder(uri).update(f"{scene.name}/{META}", change)
    return written


def _report(scene: Scene, state: State) -> SceneReport:
    return SceneReport(name=scene.name, state=state, pixels=scene.shape[0] * scene.shape[1], notes=scene.notes,
                       class_pixels=scene.class_pixels, pixel_m2=scene.pixel_m2, ignored=dict(scene.ignored_values))


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{info.name}={info.code}" for info in value) or "none"
    return repr(value)
