"""The list of a scene's files, with size and digest of each: what an audit holds against what lies there.

Checksums inside a shard tell whether its bytes are those that were written, but not whether it is this scene's shard:
another scene's in its place passes every one of them. The manifest is written when all files are there, and the
scene's attributes hold its own digest. It is a Zarr group without members, so that other readers of the scene do not
stumble over it.
"""

import hashlib
import json
from dataclasses import dataclass

from patchstore.errors import StoreError
from patchstore.format.schema import KEY, META, group_json

PLACE = f"manifest/{META}"
"""The manifest's own place below the scene's version."""


@dataclass(frozen=True, slots=True)
class File:
    """What one file must be."""

    size: int
    """Bytes."""
    sha256: str


Files = dict[str, File]
"""By the file's place below the scene's version: 0/image/c/0/1/2."""


def describe(content: bytes) -> File:
    """Size and digest of a file's content."""
    return File(len(content), hashlib.sha256(content).hexdigest())


def to_json(files: Files) -> bytes:
    """The manifest's content; the same bytes for the same files."""
    return group_json({"files": {place: [file.size, file.sha256] for place, file in sorted(files.items())}})


def from_json(content: bytes, what: str) -> Files:
    """The files that a manifest lists. Raises StoreError, naming `what`, when it is damaged."""
    try:
        listed = json.loads(content)["attributes"][KEY]["files"]
        return {place: File(int(size), str(sha256)) for place, (size, sha256) in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{what}: its manifest is damaged ({type(error).__name__}: {error}); ingest this scene again"
                         ) from None
