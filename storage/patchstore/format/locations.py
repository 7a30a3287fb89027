"""Where a store lies: the one place that knows local paths from object stores.

A URI is a local path, file:///path, s3://bucket/path or gs://bucket/path. What S3 needs comes from the environment, as
the AWS tools have it:

    $AWS_ENDPOINT_URL_S3, $AWS_ENDPOINT_URL     another server than Amazon's; a bucket is then part of the path
    $AWS_REGION, $AWS_DEFAULT_REGION            without either the bucket's own is asked for
    $AWS_ACCESS_KEY_ID, $AWS_SECRET_ACCESS_KEY, $AWS_SESSION_TOKEN, $AWS_PROFILE and its files, a machine's role
                                                without any of them requests are not signed, as public buckets allow
    $AWS_EC2_METADATA_DISABLED                  "true" spares the 4 seconds of looking for a machine's role in vain
    $AWS_MAX_ATTEMPTS                           how often a request is tried; 6 (16 seconds) if it is not said

Google Cloud's credentials are found as TensorStore does ($GOOGLE_APPLICATION_CREDENTIALS, gcloud's, a machine's role);
gs:// goes through the same code, but no test has a server for it.
"""

import functools
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import tensorstore as ts

from patchstore.errors import StateError, StoreError

FAILURES = (ValueError, OSError, RuntimeError, NotImplementedError)
"""What TensorStore raises for places and data that are absent, damaged or out of reach."""
_CONCURRENCY = 256
"""Requests at once, of a process: a batch of 32 windows asks for 64 indices, then for up to 256 chunks. With
TensorStore's own 32 such a batch took up to five round trips in a row."""
_ATTEMPTS = 6
"""TensorStore's 32, up to 32 s apart, would let a mistyped endpoint wait for a quarter of an hour."""
_REMEDIES = (
    ("NoSuchBucket|bucket does not exist", "make the bucket, or check its name and the endpoint"),
    ("PERMISSION_DENIED|UNAUTHENTICATED|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|credentials",
     "give credentials that may do this: for s3:// $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY, or $AWS_PROFILE; for "
     "gs:// $GOOGLE_APPLICATION_CREDENTIALS"),
    ("CURL error|attempts failed|UNAVAILABLE|DEADLINE_EXCEEDED|[Ee]ndpoint|aws_region|ListBucketResult|: Unknown$",
     "check the network, $AWS_ENDPOINT_URL and $AWS_REGION, and that an S3 server answers there"),
    ("[Bb]ucket name", "check the bucket's name"),
)
"""What to do when a place is out of reach, by what TensorStore says."""
_NOTES = re.compile(r" \[(?:tensorstore_spec|source locations|http_response|x-amz|curl_code)")
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
    scheme, mark, place = text.partition("://")
    scheme = scheme.lower() if mark else ""
    if scheme == "file":
        return os.path.abspath(unquote(urlsplit(text).path))
    if scheme in ("s3", "gs") and place.split("/")[0]:
        return f"{scheme}://{place.rstrip('/')}"
    if scheme or not text:
        raise StoreError(f"{text!r}: not the address of a store; give a local path, file://, s3:// or gs://")
    return os.path.abspath(text)


def folder(uri: str, *parts: str) -> dict[str, Any]:
    """TensorStore's key-value specification of a folder of a store, or of the store itself."""
    path = "".join(f"{part}/" for part in parts)
    if "://" not in uri:
        return {"driver": "file", "path": f"{uri}/{path}"}
    scheme, _, place = uri.partition("://")  # urlsplit would take a # or ? of a key for its own
    bucket, _, base = place.partition("/")
    where = {"bucket": bucket, "path": f"{base}/{path}" if base else path}
    if scheme == "gs":
        return {"driver": "gcs", **where}
    env = os.environ
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    return {"driver": "s3", **where, **({"endpoint": endpoint} if endpoint else {}),
            **({"aws_region": region} if region else {})}


class Folder:
    """The small files of a store: metadata, read and written whole (a write is atomic)."""

    def __init__(self, uri: str) -> None:
        """Raises StoreError for an address or an endpoint that cannot be one."""
        self.uri = uri
        try:
            self._store = ts.KvStore.open(folder(uri), context=context()).result()
        except FAILURES as error:
            raise self._error("cannot be opened", error) from None

    def read(self, keys: list[str]) -> list[bytes | None]:
        """Contents in the order of the keys, all asked for at once; None where there is none.

        Raises StoreError when the place cannot be read.
        """
        try:
            results = [future.result() for future in [self._store.read(key) for key in keys]]
            contents = [result.value if result.state == "value" else None for result in results]
            if "://" in self.uri and keys and all(content is None for content in contents):
                # A bucket that is not there, or a server that is not S3's, also answers that there is no such key.
                self._store.list(ts.KvStore.KeyRange(keys[0], f"{keys[0]}\0")).result()
        except FAILURES as error:
            raise self._error("cannot be read", error) from None
        return contents

    def write(self, key: str, content: bytes) -> None:
        """Write one file. Raises StoreError when the place cannot be written."""
        self.write_all({key: content})

    def update(self, key: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """Write what `change` makes of a file's content (None where there is none), unless that is None.

        Where somebody else was faster, `change` is asked again: nothing that others wrote is lost. Raises StoreError.
        """
        try:
            while True:
                found = self._store.read(key).result()
                content = change(found.value if found.state == "value" else None)
                if content is None:
                    return
                if self._store.write(key, content, if_equal=found.stamp.generation).result().generation:
                    return
        except FAILURES as error:
            raise self._error(f"{key} cannot be written", error) from None

    def write_all(self, contents: Mapping[str, bytes]) -> None:
        """Write files, all at once. Raises StoreError when the place cannot be written."""
        self.begin_to_write(contents)()

    def begin_to_write(self, contents: Mapping[str, bytes]) -> Callable[[], None]:
        """Begin to write files; what it returns waits until they are written, and raises as `write_all` does."""
        pending = {key: self._store.write(key, content) for key, content in contents.items()}

        def wait() -> None:
            for key, future in pending.items():
                try:
                    future.result()
                except FAILURES as error:
                    raise self._error(f"{key} cannot be written", error) from None

        return wait

    def children(self) -> list[str]:
        """Names of the folders in this one, sorted. An object store is asked for all keys: a request for each 1,000.

        Raises StoreError when the place cannot be listed.
        """
        try:
            if "://" not in self.uri:  # TensorStore would walk through every file
                return sorted(entry.name for entry in Path(self.uri).iterdir() if entry.is_dir())
            keys = self._store.list().result()
        except FAILURES as error:
            raise self._error("cannot be listed", error) from None
        return sorted({key.decode().split("/")[0] for key in keys if b"/" in key})

    def keys(self, part: str) -> list[str]:
        """Places, below the store, of all files in a folder of it, sorted. Raises StoreError."""
        try:
            return sorted(key.decode() for key in self._store.list(_range(part)).result())
        except FAILURES as error:
            raise self._error(f"{part} cannot be listed", error) from None

    def remove(self, part: str) -> None:
        """Remove a folder with all that is in it; one that is not there is no error. Raises StoreError."""
        try:
            self._store.delete_range(_range(part)).result()
            if "://" not in self.uri:
                shutil.rmtree(Path(self.uri, part), ignore_errors=True)  # what is left are empty folders
        except FAILURES as error:
            raise self._error(f"{part} cannot be removed", error) from None

    def remove_file(self, key: str) -> None:
        """Remove one file; one that is not there is no error. Raises StoreError."""
        try:
            self._store.write(key, None).result()
        except FAILURES as error:
            raise self._error(f"{key} cannot be removed", error) from None

    def _error(self, what: str, error: BaseException) -> StoreError:
        todo = remedy(error)
        return StoreError(f"{self.uri}: {what} ({plain(error)})" + (f"; {todo}" if todo else ""))


def _range(part: str) -> Any:
    """All keys that begin with part/."""
    return ts.KvStore.KeyRange(f"{part}/", f"{part}0")  # 0 comes next after /


def context(cache_bytes: int = 0) -> ts.Context:
    """A context with a bounded cache of decoded chunks of its own. Raises StoreError for a wrong $AWS_MAX_ATTEMPTS."""
    guard()
    attempts = os.environ.get("AWS_MAX_ATTEMPTS") or f"{_ATTEMPTS}"
    if not (attempts.isdecimal() and int(attempts)):
        raise StoreError(f"$AWS_MAX_ATTEMPTS must be a number from 1, got {attempts!r}; set another, or none")
    keys = bool(os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"))
    own = {"cache_pool": {"total_bytes_limit": cache_bytes}, "memory_key_value_store": {}}
    return ts.Context(own, _clients(int(attempts), keys))


@functools.cache
def _clients(attempts: int, keys: bool) -> ts.Context:
    """What all stores of a process share: its requests at once, and its credentials, so that they are found once."""
    limit = {"limit": _CONCURRENCY}
    retries = {"max_retries": attempts, "initial_delay": "0.25s", "max_delay": "8s"}
    # With keys in the environment the chain, which would find them too, is noisy about files that it does not need.
    return ts.Context({"aws_credentials": {"type": "environment" if keys else "default"},
                       "s3_request_concurrency": limit, "s3_request_retries": retries,
                       "gcs_request_concurrency": limit, "gcs_request_retries": retries})


def array(uri: str, path: str) -> dict[str, Any]:
    """TensorStore's specification of an array of a store that exists already.

    Missing data is an error, and metadata is looked at once. Every chunk is written, so that none may be missing.
    """
    return {"driver": "zarr3", "kvstore": folder(uri, path), "fill_missing_data_reads": False,
            "store_data_equal_to_fill_value": True, "recheck_cached_data": "open", "recheck_cached_metadata": "open"}


def plain(error: BaseException) -> str:
    """TensorStore's message on one line, without the specifications and HTTP answers at its end."""
    return " ".join(_NOTES.split(str(error))[0].split())


def remedy(error: BaseException) -> str:
    """What to do when it is the place, and not what lies there, that failed; empty where that is not so."""
    message = re.sub('"[^"]*"', "", plain(error))  # names of places in it say nothing of the cause
    return next((todo for pattern, todo in _REMEDIES if re.search(pattern, message)), "")
