"""Writing a store: create it, then ingest scene by scene, in phases that can run anywhere and in any process.

    ingest = prepare(uri, source, coding)     what is to be written (the sources are read once, for the fingerprint)
    begin(ingest)                             metadata of the arrays
    write_band(ingest, i)                     a band of shards of full resolution, with its counts and moments
    write_level_shard(ingest, level, i, j)    one shard of a coarser level, when all bands are there
    finish(ingest, ignored)                   the scene's attributes: from here on it is visible

No file has two writers, and the bytes depend on the sources' content and the settings alone: what was cut off at any
moment is written again, the same. Other scenes are never touched.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from patchstore import kv
from patchstore.catalog import load_settings, need_settings, parse_scene
from patchstore.errors import StoreError
from patchstore.masks import MaskCoding
from patchstore.plan import Ingest, plan
from patchstore.schema import META, ClassInfo, Scene, Settings, group_json
from patchstore.shards import cell_totals, write_band, write_level_shard
from patchstore.sources import SceneSource

__all__ = ["Ingest", "SceneReport", "begin", "create", "finish", "ingest_scene", "prepare", "stored", "write_band",
           "write_level_shard"]


@dataclass(frozen=True, kw_only=True)
class SceneReport:
    """What an ingest did with one scene."""

    name: str
    pixels: int
    class_pixels: tuple[int, ...]
    """Pixels of each class."""
    ignored: Mapping[str, int]
    """Pixels that the mask ignores, by the source's value: #RRGGBB, index, or nodata."""
    skipped: bool
    """Whether the store had this very scene already."""


def create(uri: str | os.PathLike[str], *, dtype: Any, bands: int, classes: Sequence[ClassInfo], ignore: int = 255,
           chunk: int = 256, shard: int = 2048, zstd: int = 1) -> str:
    """Create a store, or take the one that is there and has the same settings; returns its URI.

    Raises StoreError when a store of other settings, or something else, is there; ValueError when a setting is wrong.
    """
    uri = kv.normal(uri)
    settings = Settings(dtype=str(np.dtype(dtype)), bands=bands, classes=tuple(classes), ignore=ignore, chunk=chunk,
                        shard=shard, zstd=zstd)
    folder = kv.Folder(uri)
    there = load_settings(folder)
    if there is None:
        folder.write(META, group_json(settings.to_json()))
        return uri
    for field in fields(Settings):
        old, new = getattr(there, field.name), getattr(settings, field.name)
        if old != new:
            raise StoreError(f"{uri}: the store there has {field.name} {_shown(old)}, not {_shown(new)}; give the "
                             "same, or another place for a new store")
    return uri


def prepare(uri: str | os.PathLike[str], source: SceneSource, coding: MaskCoding | None = None) -> Ingest:
    """Plan the ingest of a scene into a store; see `patchstore.plan.plan` for what it raises."""
    uri = kv.normal(uri)
    return plan(uri, need_settings(kv.Folder(uri)), source, coding)


def stored(ingest: Ingest) -> Scene | None:
    """The scene if the store has it already, of the same content and settings. One that is torn is not there."""
    name = ingest.scene.name
    content = kv.Folder(ingest.uri).read([f"{name}/{META}"])[0]
    try:
        scene = None if content is None else parse_scene(ingest.uri, name, content)
    except StoreError:  # to be written again is what its message asks for
        return None
    return scene if scene is not None and scene.fingerprint == ingest.scene.fingerprint else None


def begin(ingest: Ingest) -> None:
    """Write the metadata of the scene's arrays. Raises StoreError."""
    folder, place = kv.Folder(ingest.uri), f"{ingest.scene.name}/{ingest.scene.version}"
    arrays = ingest.arrays()
    for group in ("", *sorted({f"{path.split('/')[0]}/" for path in arrays if "/" in path})):
        folder.write(f"{place}/{group}{META}", group_json())
    for path, content in arrays.items():
        folder.write(f"{place}/{path}/{META}", content)


def finish(ingest: Ingest, ignored: Mapping[str, int]) -> SceneReport:
    """Write the scene's attributes, with its totals; `ignored` sums what `write_band` returned. Raises StoreError."""
    class_pixels_K, sums_B3 = cell_totals(ingest)
    scene = replace(ingest.scene, class_pixels=tuple(class_pixels_K.tolist()), ignored=sum(ignored.values()),
                    ignored_values=tuple(sorted(ignored.items())),
                    band_sums=tuple((n, total, squares) for n, total, squares in sums_B3.tolist()))
    _publish(ingest.uri, scene)
    return _report(scene, skipped=False)


def ingest_scene(uri: str | os.PathLike[str], source: SceneSource, coding: MaskCoding | None = None) -> SceneReport:
    """Write a scene into a store that `create` has made; without a coding its mask holds class indices.

    A scene that the store has already is not written again; a group, origin or georeference that changed is noted.
    Raises SourceError when a file cannot be read, does not fit, or has mask values that nobody declared; StoreError
    when there is no store or it cannot be written.
    """
    ingest = prepare(uri, source, coding)
    there = stored(ingest)
    if there is not None:
        new = replace(there, group=ingest.scene.group, origin=ingest.scene.origin, crs=ingest.scene.crs,
                      transform=ingest.scene.transform)
        if new != there:
            _publish(ingest.uri, new)
        return _report(new, skipped=True)
    begin(ingest)
    ignored: Counter[str] = Counter()
    for i in range(ingest.bands_of_shards):
        ignored.update(write_band(ingest, i))
    for level, i, j in ingest.level_shards:
        write_level_shard(ingest, level, i, j)
    return finish(ingest, ignored)


def _publish(uri: str, scene: Scene) -> None:
    kv.Folder(uri).write(f"{scene.name}/{META}", group_json(scene.to_json()))


def _report(scene: Scene, *, skipped: bool) -> SceneReport:
    return SceneReport(name=scene.name, pixels=scene.shape[0] * scene.shape[1], class_pixels=scene.class_pixels,
                       ignored=dict(scene.ignored_values), skipped=skipped)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{info.name}={info.code}" for info in value) or "none"
    return repr(value)
