"""The parts of the READMEs that are generated from the code.

    python tests/support/readme.py --write      brings them up to date

A part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from swath.report import fields

ROOT = Path(__file__).parents[2]
READMES = [ROOT / name for name in ("README.md", "jobs/README.md", "storage/README.md", "platform/README.md",
                                    "tests/README.md", ".github/CONTRIBUTING.md", ".github/CHANGELOG.md")]
_SENTENCE = re.compile(r"(?<!al)\.\s+(?=[A-Z`])")


def tree(package: Path) -> str:
    """The modules of a package, each with the first sentence of its docstring, folder by folder."""
    lines: list[str] = []
    for path in _modules(package):
        folder = path.name == "__init__.py"
        depth = len(path.relative_to(package).parts) - (1 if not folder else 2 if path.parent != package else 1)
        name = "  " * (depth + (path.parent != package or not folder)) + (
            f"{path.parent.name}/" if folder else path.name)
        lines.append(f"{name:<32}{about(path)}")
    return "\n".join(["```", *lines, "```"])


def about(path: Path) -> str:
    """The first sentence of a module's docstring, in one line. Raises ValueError for a module without one."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{path}: a module says in its first line what it is for")
    return _SENTENCE.split(" ".join(text.split("\n\n")[0].split()))[0].removesuffix(".")


def _modules(folder: Path) -> Iterator[Path]:
    """A package's __init__, its own modules, then its packages, each by name."""
    yield folder / "__init__.py"
    yield from sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from _modules(inner)


PARTS: dict[str, Callable[[], str]] = {
    "fields": fields.markdown,
    "tree of swath": lambda: tree(ROOT / "platform/swath"),
    "tree of patchstore": lambda: tree(ROOT / "storage/patchstore"),
}


def renewed(text: str) -> str:
    """A README's text with each generated part as the code gives it now."""
    for name, make in PARTS.items():
        begin, end = f"<!-- generated: {name} -->\n", f"\n<!-- end of {name} -->"
        if begin in text:
            before, rest = text.split(begin)
            text = before + begin + make() + end + rest.split(end)[1]
    return text


if __name__ == "__main__":
    for readme in READMES:
        now = readme.read_text(encoding="utf-8")
        if renewed(now) != now:
            print(f"{readme.relative_to(ROOT)} is not up to date")
            if "--write" in sys.argv[1:]:
                readme.write_text(renewed(now), encoding="utf-8")
