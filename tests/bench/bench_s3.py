"""An S3 server on loopback whose every request takes 30 ms longer, and reading a store from it, for bench_storage.py.

The server is moto's, in a process of its own. The latency is added to each request, not to each connection; requests
wait beside each other. Credentials are made up, and the server forgets everything when it ends.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any
from urllib.request import Request, urlopen

LATENCY_S = 0.03
COUNTING_S = 1.0
"""Latency at which requests in a row are counted: moto takes about 4 ms for each, one at a time, which would else blur
which of them waited for another."""
BUCKET = "bench"
_LOG = "/_log"
"""Asked for this, the server tells its requests since the last time, and takes a new latency from the query."""
_ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1",
                "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


@dataclass(frozen=True, kw_only=True)
class Served:
    """One request, in seconds of the server's monotonic clock."""

    began: float
    """Ahead of the added latency."""
    ended: float
    """When the answer was there."""


class Server:
    """A running server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def log(self, latency_s: float = LATENCY_S) -> list[Served]:
        """The requests since the last call; from now on each takes `latency_s` longer."""
        with urlopen(f"{self.url}{_LOG}?{latency_s}") as answer:
            return [Served(**entry) for entry in json.load(answer)]


@contextmanager
def serve() -> Iterator[Server]:
    """An S3 server with a bucket named BUCKET, to which the environment points. There is no added latency yet."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # else a server that dies at once would leave us waiting
    before = {name: os.environ.get(name) for name in (*_ENVIRONMENT, "AWS_ENDPOINT_URL")}
    try:
        server = Server(f"http://127.0.0.1:{ours.recv()}")
        os.environ.update(_ENVIRONMENT, AWS_ENDPOINT_URL=server.url)
        # moto finds the service by the credential's scope, and looks at nothing else of it
        scope = {"Authorization": "AWS4-HMAC-SHA256 Credential=x/20200101/us-east-1/s3/aws4_request"}
        urlopen(Request(f"{server.url}/{BUCKET}", method="PUT", headers=scope)).close()
        yield server
    finally:
        process.terminate()
        process.join()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def depth(requests: Iterable[Served]) -> int:
    """Most requests of which each began after the one before had ended.

    A request waits for the content of another, or because the client bounds how many are under way.
    """
    count, end = 0, float("-inf")
    for request in sorted(requests, key=lambda request: request.ended):
        if request.began >= end:
            count, end = count + 1, request.ended
    return count


def _serve(connection: Connection) -> None:
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for each request
    server = make_server("127.0.0.1", 0, _slowed(DomainDispatcherApplication(create_backend_app)), threaded=True)
    connection.send(server.port)
    server.serve_forever()


def _slowed(app: Callable[..., Iterable[bytes]]) -> Callable[..., list[bytes]]:
    """A WSGI application that waits ahead of each request, and keeps a log."""
    log: list[dict[str, float]] = []
    latency_s = 0.0

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        nonlocal latency_s
        if environ["PATH_INFO"] == _LOG:
            body, latency_s = json.dumps(log).encode(), float(environ["QUERY_STRING"])
            log.clear()
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
        began = time.monotonic()
        time.sleep(latency_s)
        parts = list(app(environ, start_response))
        log.append({"began": began, "ended": time.monotonic()})
        return parts

    return answer
