"""The ledger of looks at a test split: who scored what on it, when, and with what result.

A test score is worth less each time that someone has seen one and gone on. So every evaluation of a test split is a run
of its own in the tracking store, in an experiment kept for that, begun before anything is predicted: what failed or was
broken off is listed too. Nothing is ever overwritten, and the tracking store serialises writers.
"""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from swath.experiments.experiment import ended_truly
from swath.names import CELLS_TAG, FINGERPRINT_TAG, ROLE_TAG, STORE_TAG, TEST_MIOU, WHAT_TAG
from swath.scoring.protocol import Protocol
from swath.tracking import mlflow_store
from swath.tracking.mlflow_store import Location, Tracker

EXPERIMENT = "swath-looks"
"""MLflow experiment of the looks."""
_ROLE = {ROLE_TAG: "look"}


@dataclass(frozen=True, kw_only=True)
class Look:
    """One evaluation of a test split."""

    run_id: str
    """Its own MLflow run."""
    when: datetime
    """Its beginning, UTC."""
    user: str
    what: str
    """The run, checkpoint folder or map that was scored."""
    protocol: str
    """Digest of the protocol."""
    store: str
    """URI of the store."""
    cells: str
    """Digest of the split's cells."""
    state: str
    """FINISHED, or why there is no score: FAILED, KILLED, RUNNING."""
    miou: float | None


@contextmanager
def look(location: Location, protocol: Protocol, what: str, store: str) -> Iterator[Tracker]:
    """Record a look at the test split of a store from its beginning to its end; the block logs the score into it."""
    tags = {**_ROLE, **protocol.tags(), **_ground(protocol), WHAT_TAG: what, STORE_TAG: store,
            "mlflow.user": _user()}
    tracker = mlflow_store.MlflowTracker.start(location.uri, experiment=EXPERIMENT, name=what.rsplit("/", 1)[-1],
                                           artifact_location=location.artifact_location, params={}, tags=tags)
    with ended_truly(tracker):
        tracker.text(protocol.to_json(), "protocol.json")
        yield tracker


def looks(uri: str, protocol: Protocol | None = None) -> list[Look]:
    """The looks that a tracking store has, oldest first; with a protocol, those at its very test split: the same cells
    of the same store. Raises ConfigError when the store cannot be reached."""
    found = mlflow_store.tagged(uri, EXPERIMENT, _ROLE | (_ground(protocol) if protocol else {}))
    return [Look(run_id=record.run_id, when=when, user=record.tags["mlflow.user"], what=record.tags[WHAT_TAG],
                 protocol=record.tags["swath.protocol.test"], store=record.tags[STORE_TAG],
                 cells=record.tags[CELLS_TAG], state=record.status, miou=record.metrics.get(TEST_MIOU))
            for when, record in found]


def _ground(protocol: Protocol) -> dict[str, str]:
    return {CELLS_TAG: protocol.cells, FINGERPRINT_TAG: protocol.store}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return f"uid {os.getuid()}"
