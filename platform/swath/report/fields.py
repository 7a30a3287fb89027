"""The fields of a configuration as Markdown tables, from the dataclasses themselves."""

import ast
import inspect
import json
import textwrap
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from swath.config import Config


def markdown() -> str:
    """A heading and a table for each section: field, type or choices, default and meaning."""
    return "\n\n".join(_section(part.name, part.default_factory) for part in fields(Config))


def _section(name: str, section: object) -> str:
    if not (isinstance(section, type) and is_dataclass(section)):
        raise TypeError(f"{name}: a section of a configuration is a dataclass, got {section!r}")
    about, types = _meanings(section), get_type_hints(section)
    rows = [f"| `{name}.{part.name}` | {_type(types[part.name])} | {_default(part)} | {_cell(about[part.name])} |"
            for part in fields(section)]
    return "\n".join([f"#### {name}", "", _sentence(inspect.getdoc(section) or ""), "",
                      "| field | type | default | meaning |", "|---|---|---|---|", *rows])


def _meanings(section: type) -> dict[str, str]:
    """The text below each field, which Python itself does not keep. Raises KeyError later for a field without one."""
    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    assert isinstance(body, ast.ClassDef)
    meanings: dict[str, str] = {}
    for line, below in zip(body.body, body.body[1:], strict=False):
        if (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)):
            meanings[line.target.id] = inspect.cleandoc(below.value.value)
    return meanings


def _type(kind: Any) -> str:
    """A type in words: the choices of a Literal, "texts" for tuple[str, ...], and so on."""
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"{_type(get_args(kind)[0])}, several"
    if isinstance(kind, type):
        words = {"str": "text", "int": "integer", "float": "number", "bool": "yes or no"}
        return words.get(kind.__name__, kind.__name__)
    if get_origin(kind) in (Union, type(int | None)):
        return " or ".join("None" if one is type(None) else _type(one) for one in get_args(kind))
    return str(kind)


def _default(part: "Field[Any]") -> str:
    value = part.default_factory() if part.default_factory is not MISSING else part.default
    if value in ("", ()):
        return "empty"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(f"`{_cell(str(one))}`" for one in value)
    return f"`{value}`" if isinstance(value, str) else json.dumps(value) if value is not None else "None"


def _cell(text: str) -> str:
    """Text for a cell of a table: in one line, list items parted by <br>, without bars that would end the cell."""
    lines = [f"<br>{line.strip()}" if line.lstrip().startswith("- ") else line.strip() for line in text.splitlines()]
    return " ".join(lines).replace("|", r"\|")


def _sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())
