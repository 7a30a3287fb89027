"""Where a store lies: the one place that knows local paths from object stores.

A URI is a local path, file:///path, s3://bucket/path or gs://bucket/path. Endpoint, region and credentials of S3 come
from the environment, as the AWS tools have them ($AWS_ENDPOINT_URL_S3 or $AWS_ENDPOINT_URL, $AWS_REGION or
$AWS_DEFAULT_REGION, $AWS_ACCESS_KEY_ID and so on); those of Google Cloud as TensorStore finds them.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import tensorstore as ts

from patchstore.errors import StateError, StoreError

FAILURES = (ValueError, OSError, RuntimeError, NotImplementedError)
"""What TensorStore raises for places and data that are absent, damaged or out of reach."""
_first_pid: list[int] = []
"""The process that first used TensorStore; a fork of it aborts (signal 6) when it does so again."""


def guard() -> None:
    """Call ahead of every use of TensorStore. Raises StateError in a process forked from one that has used it."""
    if not _first_pid:
        _first_pid.append(os.getpid())
    if _first_pid[0] != os.getpid():
        raise StateError(f"process {os.getpid()} was forked from process {_first_pid[0]}, which has used a store: "
                         "TensorStore cannot be carried across a fork; start workers by spawn or forkserver "
                         "(multiprocessing.get_context('spawn')), or use threads")


def normal(uri: str | os.PathLike[str]) -> str:
    """The URI as the store keeps it: absolute where it is local, without a slash at its end.

    Raises StoreError for a scheme that is not known.
    """
    text = os.fspath(uri)
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme == "file":
        return os.path.abspath(unquote(urlsplit(text).path))
    if scheme in ("s3", "gs"):
        return text.rstrip("/")
    if scheme or not text:
        raise StoreError(f"{text!r}: not the address of a store; give a local path, file://, s3:// or gs://")
    return os.path.abspath(text)


def folder(uri: str, *parts: str) -> dict[str, Any]:
    """TensorStore's key-value specification of a folder of a store, or of the store itself."""
    path = "".join(f"{part}/" for part in parts)
    if "://" not in uri:
        return {"driver": "file", "path": f"{uri}/{path}"}
    split = urlsplit(uri)
    base = split.path.strip("/")
    where = {"bucket": split.netloc, "path": f"{base}/{path}" if base else path}
    if split.scheme == "gs":
        return {"driver": "gcs", **where}
    env = os.environ
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    return {"driver": "s3", **where, **({"endpoint": endpoint} if endpoint else {}),
            **({"aws_region": region} if region else {})}


class Folder:
    """The small files of a store: metadata, read and written whole (a write is atomic)."""

    def __init__(self, uri: str) -> None:
        guard()
        self.uri = uri
        self._store = ts.KvStore.open(folder(uri)).result()

    def read(self, keys: list[str]) -> list[bytes | None]:
        """Contents in the order of the keys, all asked for at once; None where there is none.

        Raises StoreError when the place cannot be read.
        """
        try:
            results = [future.result() for future in [self._store.read(key) for key in keys]]
        except FAILURES as error:
            raise StoreError(f"{self.uri}: cannot be read ({plain(error)})") from None
        return [result.value if result.state == "value" else None for result in results]

    def write(self, key: str, content: bytes) -> None:
        """Write one file. Raises StoreError when the place cannot be written."""
        self.write_all({key: content})

    def write_all(self, contents: Mapping[str, bytes]) -> None:
        """Write files, all at once. Raises StoreError when the place cannot be written."""
        pending = {key: self._store.write(key, content) for key, content in contents.items()}
        for key, future in pending.items():
            try:
                future.result()
            except FAILURES as error:
                raise StoreError(f"{self.uri}: {key} cannot be written ({plain(error)})") from None

    def children(self) -> list[str]:
        """Names of the folders in this one, sorted."""
        try:
            if "://" not in self.uri:  # TensorStore would walk through every file
                return sorted(entry.name for entry in Path(self.uri).iterdir() if entry.is_dir())
            keys = self._store.list().result()
        except FAILURES as error:
            raise StoreError(f"{self.uri}: cannot be listed ({plain(error)})") from None
        return sorted({key.decode().split("/")[0] for key in keys if b"/" in key})

    def keys(self, part: str) -> list[str]:
        """Places, below the store, of all files in a folder of it, sorted. Raises StoreError."""
        try:
            return sorted(key.decode() for key in self._store.list(_range(part)).result())
        except FAILURES as error:
            raise StoreError(f"{self.uri}: {part} cannot be listed ({plain(error)})") from None

    def remove(self, part: str) -> None:
        """Remove a folder with all that is in it; one that is not there is no error. Raises StoreError."""
        try:
            self._store.delete_range(_range(part)).result()
            if "://" not in self.uri:
                shutil.rmtree(Path(self.uri, part), ignore_errors=True)  # what is left are empty folders
        except FAILURES as error:
            raise StoreError(f"{self.uri}: {part} cannot be removed ({plain(error)})") from None

    def remove_file(self, key: str) -> None:
        """Remove one file; one that is not there is no error. Raises StoreError."""
        try:
            self._store.write(key, None).result()
        except FAILURES as error:
            raise StoreError(f"{self.uri}: {key} cannot be removed ({plain(error)})") from None


def _range(part: str) -> Any:
    """All keys that begin with part/."""
    return ts.KvStore.KeyRange(f"{part}/", f"{part}0")  # 0 comes next after /


def context(cache_bytes: int = 0) -> ts.Context:
    """A context of its own, with a bounded cache of decoded chunks."""
    guard()
    return ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})


def array(uri: str, path: str) -> dict[str, Any]:
    """TensorStore's specification of an array of a store that exists already.

    Missing data is an error, and metadata is looked at once. Every chunk is written, so that none may be missing.
    """
    return {"driver": "zarr3", "kvstore": folder(uri, path), "fill_missing_data_reads": False,
            "store_data_equal_to_fill_value": True, "recheck_cached_data": "open", "recheck_cached_metadata": "open"}


def plain(error: BaseException) -> str:
    """TensorStore's message without the specification at its end."""
    return str(error).split(" [tensorstore_spec")[0].split(" [source locations")[0]
