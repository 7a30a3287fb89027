"""The command `swath VERB …`. The scripts in jobs/ run the same verbs."""

import importlib
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from patchstore import PatchstoreError
from swath.errors import SwathError

VERBS = {
    "quickstart": "from nothing to the best of a few models, its score and a map",
    "ingest": "write a folder of images and masks into a store",
    "audit": "check that a store still holds what was written",
    "store": "list, remove, collect or export scenes of a store",
    "plan": "show what a run will see, its best possible score, and its cost",
    "train": "train, score and record one model",
    "search": "try many configurations and train the best one again",
    "evaluate": "score models, or maps that other tools made, on whole scenes",
    "predict": "map whole scenes with a trained model",
    "fields": "print the fields of a configuration",
}
"""Each verb is a module of `swath.commands`."""


def main() -> None:
    """Run the verb that the command line names."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in VERBS:
        run(verb, sys.argv[2:])
        return
    usage = "\n".join(["usage: swath VERB [arguments]; swath VERB --help shows them", "",
                       *(f"  {name:<11} {text}" for name, text in VERBS.items())])
    if verb in ("-h", "--help"):
        print(usage)
        return
    print(f"error: no verb {verb!r}\n{usage}", file=sys.stderr)
    sys.exit(2)


def run(verb: str, argv: Sequence[str] | None = None) -> None:
    """Run a verb with the arguments of the command line, or with `argv`.

    A mistake of the user's becomes one line on standard error and exit code 2. SIGTERM and Ctrl-C end the process
    without a traceback.
    """
    received: list[int] = []

    def leave(number: int, frame: FrameType | None) -> None:
        received.append(number)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        importlib.import_module(f"swath.commands.{verb}").main(sys.argv[1:] if argv is None else argv)
    except SystemExit:
        if received:  # while Ray waits, it turns a signal's exit into an exit with 1
            sys.exit(128 + received[0])
        raise
    except (SwathError, PatchstoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
