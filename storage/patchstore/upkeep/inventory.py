"""The scenes of a store with their versions; removing scenes and versions.

A scene that was ingested again has a new version; the one before stays, for readers that still use it, until it is
collected. What a killed ingest left, and nobody took up again, is unfinished.
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from patchstore.errors import StoreError
from patchstore.format import locations, manifest
from patchstore.format.catalog import load_scene, need_settings, parse_scene
from patchstore.format.schema import META, Scene, group_json

VersionState = Literal["current", "superseded", "unfinished"]


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a scene."""

    name: str
    state: VersionState
    files: int
    size: int | None
    """Bytes; None where no manifest, or only a damaged one, says."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One scene's folder."""

    name: str
    scene: Scene | None
    """None where no ingest has finished."""
    versions: tuple[Version, ...]

    def of(self, state: VersionState) -> list[str]:
        """Names of the versions of a state."""
        return [version.name for version in self.versions if version.state == state]


def versions(uri: str | os.PathLike[str]) -> list[Entry]:
    """All scenes of a store with their versions, unfinished ones included.

    Raises StoreError when there is no store, or a scene is torn.
    """
    folder = _folder(uri)
    return [_entry(folder, name) for name in folder.children()]


def remove(uri: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Remove scenes with all of their versions, also torn ones. From its first moment on they are not listed.

    Not while the same scenes are ingested: that ingest then fails. Raises StoreError, before anything is removed, when
    a scene is not there.
    """
    folder, names = _folder(uri), list(names)
    there = folder.children()
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {len(there)} scenes"
            raise StoreError(f"{folder.uri}: no scene {name!r}; {hint}")
    for name in names:
        folder.remove_file(f"{name}/{META}")
        folder.remove(name)


def collect(uri: str | os.PathLike[str], *, unfinished: bool = False, pretend: bool = False) -> list[str]:
    """Remove superseded versions, and, where asked, what killed ingests left; returns them as SCENE/VERSION.

    Not while the same scenes are ingested: an ingest that is under way looks unfinished. A reader that has opened the
    store before raises ReadError when it next reads a version that was removed. Raises StoreError.
    """
    folder, removed = _folder(uri), []
    for entry in versions(uri):
        old = entry.of("superseded") + (entry.of("unfinished") if unfinished else [])
        removed += [f"{entry.name}/{version}" for version in old]
        if pretend or not old:
            continue
        for version in old:
            folder.remove(f"{entry.name}/{version}")
        if entry.scene is None:
            folder.remove(entry.name)
        else:
            folder.update(f"{entry.name}/{META}", partial(_forget, folder.uri, entry.name, old))
    return removed


def _forget(uri: str, name: str, old: Sequence[str], content: bytes | None) -> bytes | None:
    """A scene's attributes without versions that are no more."""
    scene = None if content is None else parse_scene(uri, name, content)
    if scene is None:
        return None
    kept = tuple(version for version in scene.superseded if version not in old)
    return group_json(replace(scene, superseded=kept).to_json())


def _folder(uri: str | os.PathLike[str]) -> locations.Folder:
    folder = locations.Folder(locations.normal(uri))
    need_settings(folder)
    return folder


def _entry(folder: locations.Folder, name: str) -> Entry:
    scene = load_scene(folder, name)
    files: dict[str, int] = {}
    for key in folder.keys(name):
        version, _, place = key.removeprefix(f"{name}/").partition("/")
        if place:
            files[version] = files.get(version, 0) + 1
    return Entry(name=name, scene=scene, versions=tuple(
        _version(folder, f"{name}/{version}", _state(scene, version), count) for version, count in files.items()))


def _state(scene: Scene | None, version: str) -> VersionState:
    if scene is not None and version == scene.version:
        return "current"
    return "superseded" if scene is not None and version in scene.superseded else "unfinished"


def _version(folder: locations.Folder, place: str, state: VersionState, count: int) -> Version:
    content = folder.read([f"{place}/{manifest.PLACE}"])[0]
    size = None
    if content is not None:
        try:
            listed = manifest.from_json(content, f"{folder.uri}: {place}")
            size = sum(file.size for file in listed.values()) + len(content)
        except StoreError:  # an audit says so; here it only means that nobody knows
            size = None
    return Version(name=place.rpartition("/")[2], state=state, files=count, size=size)
