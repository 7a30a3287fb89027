"""Whether a scene's files are there, whole, and its own: held against the manifest and the layout."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from patchstore.errors import SourceError, StoreError
from patchstore.format import locations, manifest
from patchstore.format.catalog import parse_scene
from patchstore.format.layout import Layout
from patchstore.format.manifest import File, Files, describe
from patchstore.format.schema import META
from patchstore.upkeep.findings import Findings, Ground, called

_BATCH = 64 << 20
"""Bytes of files that are read at once; a larger file is read alone."""

Listing = Mapping[str, int | None]
"""Files by place, with their bytes where a listing tells them."""


def list_files(folder: locations.Folder, part: str) -> dict[str, int | None]:
    """Files below a folder of a store; sizes, and locks that a killed ingest left, where it is local.

    Raises StoreError.
    """
    if "://" in folder.uri:
        return dict.fromkeys(key.removeprefix(f"{part}/") for key in folder.keys(part))
    base = Path(folder.uri, part)
    sizes: dict[str, int | None] = {}
    for path, _, names in os.walk(base):
        for file in (Path(path, name) for name in names):
            try:
                sizes[file.relative_to(base).as_posix()] = file.stat().st_size
            except FileNotFoundError:  # the lock of an ingest that goes on
                continue
            except OSError as error:
                raise StoreError(f"{file}: cannot be read ({error})") from None
    return sizes


@dataclass(frozen=True, kw_only=True)
class FileAudit:
    """The files of one version of a scene."""

    folder: locations.Folder
    layout: Layout
    listing: Listing
    """What lies in the version's folder."""
    ground: Ground
    findings: Findings

    def run(self) -> Files:
        """Look at all of them; returns what the manifest lists, nothing where it is not the scene's own.

        Raises StoreError when the store cannot be read.
        """
        listed = self._manifest()
        self._presence(listed)
        self._content(listed)
        self._metadata()
        return listed

    def _manifest(self) -> Files:
        content = self.folder.read([self._key(manifest.PLACE)])[0]
        if content is not None and describe(content).sha256 == self.layout.scene.manifest:
            return manifest.from_json(content, f"{self.folder.uri}: scene {self.layout.scene.name}")
        what = "absent" if content is None else "other content than was written (by the digest in the attributes)"
        self.findings.broken(manifest.PLACE, f"{what}; sizes and digests of files cannot be checked")
        return {}

    def _presence(self, listed: Files) -> None:
        """What is not there, by the listing alone."""
        for array, group in groupby(sorted(listed), _array):
            places = list(group)
            absent = [place for place in places if place not in self.listing]
            if len(absent) == len(places) > 1:
                self.findings.say(f"array {array}: absent, with all of its {len(places)} files")
                self.findings.known(*places)
            for place in absent:
                self.findings.broken(place, "absent")

    def _content(self, listed: Files) -> None:
        """Size and digest of the files on the ground that is looked at, and of those whose listed size is wrong."""
        places = [place for place in sorted(listed) if not self.findings.is_broken(place) and (
            self.ground.covers(place) or self.listing[place] not in (None, listed[place].size))]
        for batch in self._batches(places, listed):
            for place, content in zip(batch, self.folder.read([self._key(place) for place in batch])):
                if content is None:
                    self.findings.broken(place, "absent")
                elif describe(content) != listed[place]:
                    self.findings.broken(place, self._other(content, listed[place]))

    def _other(self, content: bytes, file: File) -> str:
        """What is wrong with a file's content."""
        if owner := self._owners.get(describe(content).sha256):
            return f"its content is that of {owner}"
        if len(content) < file.size:
            return f"cut: {len(content):,} of {file.size:,} bytes"
        if len(content) > file.size:
            return f"too long: {len(content):,} bytes instead of {file.size:,}"
        return "other content than was written (by its digest)"

    def _metadata(self) -> None:
        """What the manifest cannot tell: metadata that was written for other attributes or settings than these."""
        try:
            metadata = self.layout.metadata()
        except SourceError:  # from the CRS of a source its own remedy would be another one
            self.findings.say("attribute crs is no coordinate reference system, so no metadata can be checked against "
                              "it; remove this scene and ingest it again")
            return
        expected = {f"{path}/{META}" if path else META: content for path, content in metadata.items()}
        places = [place for place in expected if not self.findings.is_broken(place)]
        contents = self.folder.read([self._key(place) for place in places])
        other = [place for place, content in zip(places, contents) if content != expected[place]]
        if other:
            more = f" and {len(other) - 1} others" if len(other) > 1 else ""
            self.findings.say(f"{other[0]}{more}: not the metadata that the store's settings and the scene's "
                              "attributes give")

    @cached_property
    def _owners(self) -> dict[str, str]:
        """Whose each content of the store is, by digest. Damaged scenes are left out: their own audit names them."""
        owners: dict[str, str] = {}
        names = sorted(self.folder.children(), key=lambda name: name == self.layout.scene.name)  # its own win
        for name, content in zip(names, self.folder.read([f"{name}/{META}" for name in names])):
            if content is None:
                continue
            try:
                version = parse_scene(self.folder.uri, name, content).version
                listed = self.folder.read([f"{name}/{version}/{manifest.PLACE}"])[0]
                files = {} if listed is None else manifest.from_json(listed, name)
            except StoreError:
                continue
            owners |= {file.sha256: f"scene {name}, {called(place)}" for place, file in files.items()}
        return owners

    def _batches(self, places: Sequence[str], listed: Files) -> Iterator[list[str]]:
        """Files that are read at once."""
        batch: list[str] = []
        total = 0
        for place in places:
            size = self.listing[place] or listed[place].size
            if batch and total + size > _BATCH:
                yield batch
                batch, total = [], 0
            batch.append(place)
            total += size
        if batch:
            yield batch

    def _key(self, place: str) -> str:
        return f"{self.layout.scene.name}/{self.layout.scene.version}/{place}"


def _array(place: str) -> str:
    """The array, or group, that a file belongs to."""
    return place.partition("/c/")[0].removesuffix(META).rstrip("/")
