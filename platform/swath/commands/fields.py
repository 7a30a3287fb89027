"""Print the fields of a configuration, with type, default and meaning.

swath fields [--markdown]
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markdown import Markdown

from swath.commands.command_line import read
from swath.report import fields


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Print the fields of a configuration, with type, default and meaning."""

    markdown: bool = False
    """Print Markdown, as jobs/README.md has it, instead of tables for a terminal."""


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    text = fields.markdown()
    if read(Arguments, argv).markdown:
        print(text)
    else:
        Console().print(Markdown(text))
