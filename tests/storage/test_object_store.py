"""Stores on S3, against a server on loopback: the same bytes as local ones, few round trips, a clear line for failures.

gs:// goes through the same code; only its addresses are tested.
"""

import asyncio
import pickle
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import tensorstore

import patchstore
from patchstore import ReadError, SceneSource, StoreError, Window
from patchstore.format import locations
from patchstore.testing import make_dataset
from patchstore.upkeep import auditing, inventory

CLASSES = tuple(patchstore.ClassInfo(name, (i, i, i)) for i, name in enumerate("abcde"))
SIDE = 300
QUIET_S = 0.15
"""No new request for so long: what was asked for at once has arrived."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server with an empty bucket `scenes`; the environment names it and has credentials."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_MAX_ATTEMPTS"):
                patch.delenv(name, raising=False)
            for name, value in (("ENDPOINT_URL", url), ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "secret"),
                                ("REGION", "us-east-1"), ("EC2_METADATA_DISABLED", "true")):
                patch.setenv(f"AWS_{name}", value)
            wait_for(url)
            s3().create_bucket(Bucket="scenes")
            yield url
    finally:
        server.kill()
        server.wait()


def wait_for(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError(f"no S3 server at {url}")


@cache  # made for the endpoint of this module; it takes longer than a request
def s3() -> Any:
    return boto3.client("s3", region_name="us-east-1")


def objects(prefix: str) -> dict[str, bytes]:
    """Content of all objects of a store, by key below it."""
    client = s3()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="scenes", Prefix=f"{prefix}/")
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return {key.removeprefix(f"{prefix}/"): client.get_object(Bucket="scenes", Key=key)["Body"].read() for key in keys}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[SceneSource]:
    """Two scenes with masks."""
    folder = tmp_path_factory.mktemp("sources")
    make_dataset(folder, scenes=2, size=SIDE, seed=1)
    return patchstore.find_folder(folder).scenes


def fill(uri: str, sources: list[SceneSource]) -> str:
    uri = patchstore.create(uri, dtype="uint8", bands=3, classes=CLASSES, chunk=64, shard=128)
    for source in sources:
        patchstore.ingest(uri, source)
    return uri


@pytest.fixture(scope="module")
def local(sources: list[SceneSource], tmp_path_factory: pytest.TempPathFactory) -> str:
    return fill(str(tmp_path_factory.mktemp("local") / "s.zarr"), sources)


@pytest.fixture(scope="module")
def remote(endpoint: str, sources: list[SceneSource]) -> str:
    return fill("s3://scenes/deep/er/s.zarr/", sources)


@pytest.fixture
def copy(remote: str) -> str:
    """A store that a test may damage."""
    for key, content in objects("deep/er/s.zarr").items():
        s3().put_object(Bucket="scenes", Key=f"copy.zarr/{key}", Body=content)
    return "s3://scenes/copy.zarr"


def test_ingest_gives_the_bytes_of_a_local_one(remote: str, local: str, sources: list[SceneSource]) -> None:
    assert remote == "s3://scenes/deep/er/s.zarr"
    files = [path for path in Path(local).rglob("*") if path.is_file()]
    expected = {path.relative_to(local).as_posix(): path.read_bytes() for path in files}
    assert objects("deep/er/s.zarr") == expected
    assert patchstore.ingest(remote, sources[0]).state == "unchanged"
    assert objects("deep/er/s.zarr") == expected


def test_reads_what_a_local_store_reads(remote: str, local: str) -> None:
    here, there = patchstore.open(local), pickle.loads(pickle.dumps(patchstore.open(remote)))  # noqa: S301
    assert there.uri == remote
    assert there.scenes == here.scenes
    assert there.fingerprint == here.fingerprint
    windows = [Window(name, row, col, side) for name in here.scenes
               for row, col, side in ((-20, 5, 64), (130, 61, 128), (250, 280, 64), (0, 0, 256))]
    for ours, theirs in zip(here.read(windows, 64), there.read(windows, 64)):
        np.testing.assert_array_equal(ours, theirs)
    for array in ("image", "mask", "valid"):
        arguments = ("g0_s0", array, (3, 140), (60, 149), 1)
        np.testing.assert_array_equal(here.region(*arguments), there.region(*arguments))
    np.testing.assert_array_equal(here.counts("g1_s0"), there.counts("g1_s0"))
    np.testing.assert_array_equal(here.moments("g1_s0"), there.moments("g1_s0"))


def test_damage_is_an_error_that_names_the_chunk(copy: str) -> None:
    place = f"copy.zarr/g0_s0/{patchstore.open(copy).scenes['g0_s0'].version}/0/image"
    shard, metadata = f"{place}/c/0/1/1", f"{place}/zarr.json"
    whole = {key: s3().get_object(Bucket="scenes", Key=key)["Body"].read() for key in (shard, metadata)}
    flipped = bytearray(whole[shard])
    flipped[60] ^= 1
    cut, chunk = whole[shard][:500], r", chunk \(0, [23], [23]\) in shard c/0/1/1"
    for key, damaged, where in ((shard, None, chunk), (shard, bytes(flipped), chunk), (shard, cut, chunk),
                                (metadata, None, "")):
        if damaged is None:
            s3().delete_object(Bucket="scenes", Key=key)
        else:
            s3().put_object(Bucket="scenes", Key=key, Body=damaged)
        with pytest.raises(ReadError, match=f"^{copy}: scene g0_s0, array 0/image{where}: absent or damaged .*; del"):
            patchstore.open(copy).read([Window("g1_s0", 0, 0, 64), Window("g0_s0", 128, 128, 64)], 64)
        s3().put_object(Bucket="scenes", Key=key, Body=whole[key])
    patchstore.open(copy).read([Window("g0_s0", 128, 128, 64)], 64)


def test_an_audit_finds_what_is_wrong(copy: str, job_here: Any) -> None:
    place = f"copy.zarr/g0_s0/{patchstore.open(copy).scenes['g0_s0'].version}"
    assert [auditing.audit_scene(copy, name).problems for name in auditing.scene_names(copy)] == [(), ()]
    assert job_here("audit", copy).returncode == 0
    other = s3().get_object(Bucket="scenes", Key=f"{place}/0/image/c/0/0/0")["Body"].read()
    s3().put_object(Bucket="scenes", Key=f"{place}/0/image/c/0/0/1", Body=other)
    s3().delete_object(Bucket="scenes", Key=f"{place}/1/mask/c/0/0")
    for sample in (1.0, 0.01):
        problems = "\n".join(auditing.audit_scene(copy, "g0_s0", sample=sample).problems)
        assert "array 1/mask, shard c/0/0: absent" in problems
        assert sample < 1 or "array 0/image, shard c/0/0/1: its content is that of" in problems
    assert auditing.audit_scene(copy, "g1_s0").problems == ()
    done = job_here("audit", copy)
    assert (done.returncode, "array 1/mask, shard c/0/0: absent" in done.stdout + done.stderr) == (1, True)


def test_superseded_versions_and_scenes_are_removed(copy: str, tmp_path: Path) -> None:
    make_dataset(tmp_path, scenes=1, size=SIDE, seed=3)
    old = f"g0_s0/{patchstore.open(copy).scenes['g0_s0'].version}"
    patchstore.ingest(copy, patchstore.find_folder(tmp_path).scenes[0])
    assert old in inventory.collect(copy)
    assert not [key for key in objects("copy.zarr") if key.startswith(old)]
    inventory.remove(copy, ["g1_s0"])
    assert {key.split("/")[0] for key in objects("copy.zarr")} == {"g0_s0", "zarr.json"}
    assert list(patchstore.open(copy).scenes) == ["g0_s0"]


def test_a_changed_scene_gets_another_version(copy: str, sources: list[SceneSource], tmp_path: Path) -> None:
    make_dataset(tmp_path, scenes=1, size=SIDE, seed=2)
    changed, = patchstore.find_folder(tmp_path).scenes
    before = patchstore.open(copy)
    assert patchstore.ingest(copy, changed).state == "changed"
    after, whole = patchstore.open(copy), ("g0_s0", "image", (0, SIDE), (0, SIDE))
    assert after.scenes["g0_s0"].superseded == (before.scenes["g0_s0"].version,)
    assert after.scenes["g1_s0"] == before.scenes["g1_s0"]
    assert (after.region(*whole) != before.region(*whole)).any()  # what was open still reads what it opened
    locations.Folder(copy).remove(f"g0_s0/{before.scenes['g0_s0'].version}")
    assert not [key for key in objects("copy.zarr") if before.scenes["g0_s0"].version in key.split("/")]


def test_names_of_any_characters(endpoint: str) -> None:
    folder = locations.Folder("s3://scenes/odd #?%41.zarr")
    folder.write_all({"a&b 'c' <ü>/zarr.json": b"1", "plain/zarr.json": b"2"})
    assert folder.children() == ["a&b 'c' <ü>", "plain"]
    assert folder.keys("a&b 'c' <ü>") == ["a&b 'c' <ü>/zarr.json"]
    assert locations.Folder("s3://scenes/odd ").children() == []


def test_a_bucket_that_is_not_there(endpoint: str) -> None:
    with pytest.raises(StoreError, match=r"^s3://no-bucket/s: cannot be read \(.*NoSuchBucket.*\); make the bucket"):
        patchstore.open("s3://no-bucket/s")
    with pytest.raises(StoreError, match="NoSuchBucket"):
        fill("s3://no-bucket/s", [])
    with pytest.raises(StoreError, match=r"^s3://scenes/nothing: no store is there"):
        patchstore.open("s3://scenes/nothing")
    for uri, expected in (("s3://B!/s", r"^s3://B!/s: cannot be opened \(Invalid S3 bucket name.*; check the bucket's"),
                          ("s3://", "not the address of a store")):
        with pytest.raises(StoreError, match=expected):
            patchstore.open(uri)


def test_an_endpoint_that_is_none(remote: str, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    opened, nobody = patchstore.open(remote), f"http://127.0.0.1:{free_port()}"
    for url, expected in ((f"{endpoint}/moto-api", r"cannot be read \(.*; check .* that an S3 server answers there$"),
                          ("127.0.0.1", r"cannot be opened \(.*invalid scheme.*; check .*AWS_ENDPOINT_URL"),
                          (nobody, r"cannot be read \(.*Could not connect.*; check .*AWS_ENDPOINT_URL")):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        began = time.monotonic()
        with pytest.raises(StoreError, match=rf"^s3://scenes/s: {expected}"):
            patchstore.open("s3://scenes/s")
        assert time.monotonic() - began < 10
    with pytest.raises(ReadError, match=r"scene g0_s0, array 0/image: cannot be reached .*; check the network"):
        opened.read([Window("g0_s0", 0, 0, 64)], 64)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "many")
    with pytest.raises(StoreError, match=r"AWS_MAX_ATTEMPTS must be a number from 1, got 'many'"):
        patchstore.open("s3://scenes/s")


class Forbidding(BaseHTTPRequestHandler):
    """Answers as S3 does to whom it does not know; keeps whether requests were signed."""

    signed: list[bool]

    def do_GET(self) -> None:
        self.signed.append("Authorization" in self.headers)
        self.send_response(403)
        body = b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_missing_credentials(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Forbidding.signed = []
    with HTTPServer(("127.0.0.1", 0), Forbidding) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(f"AWS_{name}", str(tmp_path / name))
        for expected in (True, False):
            with pytest.raises(StoreError, match=r"^s3://scenes/s: cannot be read \(.*AccessDenied.*\); give creden"):
                patchstore.open("s3://scenes/s")
            assert Forbidding.signed.pop() == expected
            monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
            monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
        server.shutdown()


class Rounds:
    """A proxy that answers requests by rounds: all that were asked for at once, when no other comes for QUIET_S."""

    def __init__(self, back: str) -> None:
        self.rounds: list[int] = []
        """Requests of each round."""
        self._back = int(back.rpartition(":")[2])
        self._waiting: list[asyncio.Event] = []
        self._busy = 0
        self._came = 0.0
        self._loop = asyncio.new_event_loop()
        self.port = self._loop.run_until_complete(self._start())
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    async def _start(self) -> int:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._tasks = [asyncio.ensure_future(self._release())]
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _release(self) -> None:
        while True:
            await asyncio.sleep(QUIET_S / 10)
            if self._waiting and not self._busy and time.monotonic() - self._came > QUIET_S:
                self.rounds.append(len(self._waiting))
                for event in self._waiting:
                    event.set()
                self._waiting = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await message(reader)
                self._busy += 1
                back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._back)
                back_writer.write(request)
                answer = await message(back_reader)
                back_writer.close()
                self._waiting.append(event := asyncio.Event())
                self._busy -= 1
                self._came = time.monotonic()
                await event.wait()
                writer.write(answer.replace(b"Connection: close\r\n", b"", 1))  # S3 keeps connections
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def message(reader: asyncio.StreamReader) -> bytes:
    """An HTTP request or answer, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(lengths[0] if lengths else 0)


def test_a_batch_is_two_round_trips(remote: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Rounds(endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    store = patchstore.open(remote)
    assert len(proxy.rounds) == 3  # settings, names, scenes
    rng = np.random.default_rng(0)

    def batch(scales: tuple[int, ...]) -> list[Window]:
        return [Window(f"g{i % 2}_s0", *map(int, rng.integers(0, SIDE - 64, 2)), 64 * scales[i % len(scales)])
                for i in range(32)]

    proxy.rounds.clear()
    store.read(batch((1, 2, 4)), 64)
    # Metadata of the 12 arrays, indices of their shards, chunks; one more while connections are being made (measured).
    assert len(proxy.rounds) <= 4, proxy.rounds
    fresh = patchstore.open(remote)
    for name in fresh.scenes:  # opens the arrays, and leaves three of four columns of shards unseen
        fresh.read([Window(name, 0, 0, 64)], 64)
    proxy.rounds.clear()
    fresh.read(batch((1,)), 64)
    assert len(proxy.rounds) <= 2, proxy.rounds
    assert sum(proxy.rounds) > 64


def test_addresses_of_google_cloud() -> None:
    assert locations.normal("gs://bucket/a/s.zarr/") == "gs://bucket/a/s.zarr"
    spec = tensorstore.KvStore.Spec(locations.folder("gs://bucket/a/s.zarr", "scene"))
    assert spec.url == "gs://bucket/a/s.zarr/scene/"
    tensorstore.KvStore.open(spec, context=locations.context()).result()


def arguments(sources: list[SceneSource], store: str) -> tuple[object, ...]:
    return ("synthetic", "--data.source", sources[0].image.parent.parent, "--data.store", store, "--data.chunk", "64",
            "--data.shard", "128", "--json")


def test_the_job_ingests(endpoint: str, sources: list[SceneSource], job_here: Any, monkeypatch: pytest.MonkeyPatch
                         ) -> None:
    from swath.distributed import ingest as ray_ingest
    from swath.experiments import ingest

    monkeypatch.setattr(ray_ingest, "spread", lambda tasks, address: ingest.one_by_one(tasks))
    done = job_here("ingest", *arguments(sources, "s3://scenes/job.zarr"))
    assert done.returncode == 0, done.stderr
    assert list(patchstore.open("s3://scenes/job.zarr").scenes) == ["g0_s0", "g1_s0"]
    failed = job_here("ingest", *arguments(sources, "s3://no-bucket/job.zarr"))
    assert failed.returncode == 2
    assert "NoSuchBucket" in failed.stderr.splitlines()[-1]


@pytest.mark.slow
def test_the_job_ingests_by_ray(endpoint: str, sources: list[SceneSource], job: Any) -> None:
    done = job("ingest", *arguments(sources, "s3://scenes/ray.zarr"))
    assert done.returncode == 0, done.stderr
    assert list(patchstore.open("s3://scenes/ray.zarr").scenes) == ["g0_s0", "g1_s0"]
