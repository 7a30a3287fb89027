"""Score a model on whole scenes of a split.

python jobs/evaluate.py RUN [--data.store URI] --split test [--json]
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from swath import cli, console, evaluate
from swath.split import SplitName


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data to score on."""

    store: str = ""
    """Store; empty: the one that the model was trained on."""


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.ModelArguments):
    """Score a model on whole scenes of a split."""

    data: Data = field(default_factory=Data)
    split: SplitName = "val"
    """Split to score."""
    json: bool = False
    """Print one JSON object as the last line: miou, iou, confusion, pixels, ignored, protocol."""


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    arguments = cli.read(Arguments, argv)
    score = evaluate.evaluate(arguments.run, arguments.split, workdir=cli.lasting(arguments.workdir, "workdir"),
                              uri=cli.lasting_uri(arguments.track.uri), device=arguments.device,
                              store_uri=cli.lasting(arguments.data.store, "data.store"))
    out = Console()
    out.print(console.iou_table(arguments.split, score.iou, score.means))
    out.print(f"{score.pixels:,} pixels, {score.ignored:,} ignored; protocol {score.protocol.digest()}")
    cli.finish(arguments.json, {
        "miou": score.miou, "iou": score.iou, "confusion": score.confusion.tolist(), "pixels": score.pixels,
        "ignored": score.ignored, "protocol": score.protocol.digest(), "split": arguments.split,
        "unexpected": score.unexpected, "means": score.means})


if __name__ == "__main__":
    cli.run(main)
