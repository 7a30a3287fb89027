"""What a run's record says of code, packages, machine and warnings."""

import json
import warnings
from importlib import metadata

from swath.tracking import provenance


def test_the_environment_is_told_in_plain_json() -> None:
    told = json.loads(json.dumps(provenance.environment()))
    assert told["packages"]["torch"] == metadata.version("torch")
    assert told["code"] == provenance.code()
    assert len(told["code"]) == 12
    assert told["machine"]["cores"] >= 1


def test_each_warning_is_noted_once_and_shown_as_ever() -> None:
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown: list[str] = []
        warnings.showwarning = lambda message, *rest: shown.append(str(message))
        with provenance.recording_warnings(said.append):
            for text in ("one", "two", "one"):
                warnings.warn(text, stacklevel=1)
        warnings.warn("later", stacklevel=1)
    assert said == ["UserWarning: one", "UserWarning: two"]
    assert shown == ["one", "two", "one", "later"]
