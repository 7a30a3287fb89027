"""The documents: short enough, up to date with the code, and naming only what exists."""

import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from support.readme import PARTS, READMES, ROOT, renewed

LINES = 250
"""The README is read at one go."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
ROOTS = r"(?:platform|storage|jobs|tests|\.github|\.ci)"
TREE_PATH = re.compile(rf"(?<![\w./-])({ROOTS}/[\w./-]*\w|cluster\.yaml|constraints\.txt)")
JOB = re.compile(r"^(?:python jobs/(\w+)\.py|swath (\w+))\s+(.*)$")
EACH = pytest.mark.parametrize("readme", READMES, ids=lambda path: path.relative_to(ROOT).as_posix())


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LINES


def test_generated_parts_are_up_to_date() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in READMES}
    for name in PARTS:
        assert sum(f"<!-- generated: {name} -->" in text for text in texts.values()) == 1, name
    stale = [str(path.relative_to(ROOT)) for path, text in texts.items() if renewed(text) != text]
    assert not stale, f"{', '.join(stale)}: run python tests/support/readme.py --write"


@EACH
def test_links_and_named_files_exist(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        if "://" not in target:
            name, _, anchor = target.partition("#")
            path = readme.parent / name if name else readme
            assert path.exists(), f"{readme}: {target} does not exist"
            assert not anchor or anchor in _anchors(path), f"{readme}: {target} has no such heading"
    for name in TREE_PATH.findall(text):
        assert (ROOT / name).exists(), f"{readme}: {name} does not exist"


def test_commands_name_options_that_exist() -> None:
    commands = [(readme, *command) for readme in READMES for command in _commands(readme)]
    assert len(commands) > 20, "the test looks at no command"
    for readme, job, words in commands:
        known = _options(job, words[0] if job == "store" else "")
        for word in words:
            option = word.split("=")[0]
            if re.match(r"--\w", option):
                assert option.replace("_", "-") in known, f"{readme}: jobs/{job}.py has no {option}"


def _anchors(path: Path) -> set[str]:
    """The headings of a document, as links name them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _commands(readme: Path) -> Iterator[tuple[str, list[str]]]:
    """The job and the words of each command in the document's fenced blocks."""
    for language, block in FENCE.findall(readme.read_text(encoding="utf-8")):
        for line in [] if language == "python" else block.replace("\\\n", " ").splitlines():
            found = JOB.match(line.strip())
            if found:
                yield found[1] or found[2], shlex.split(found[3].replace("…", ""), comments=True)


@cache
def _options(job: str, verb: str) -> set[str]:
    """The options that a job's --help names."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        importlib.import_module(f"swath.commands.{job}").main([*([verb] if verb else []), "--help"])
    return {name.replace("_", "-") for name in re.findall(r"--[a-zA-Z][\w.-]*", text.getvalue())}
