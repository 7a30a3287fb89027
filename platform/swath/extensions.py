"""Objects of a user's own code, named by a dotted path: `mypackage.nets:HRNet` is HRNet in the module mypackage.nets.

A dotted path may stand wherever a field chooses a network, a loss, an augmentation or a data set by name.
Modules are found as Python finds them, and in the working directory of the process.
"""

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from swath.errors import ConfigError

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_path(name: str) -> bool:
    """Whether a name is a dotted path, MODULE:NAME, and not a name of our own."""
    return ":" in name


def resolve(path: str, field: str) -> Callable[..., Any]:
    """Import the function or class that a dotted path names. `field` is the field that has the path, for messages.

    Raises ConfigError for a path that is not written MODULE:NAME, a module that cannot be imported, and a name that the
    module does not have or that cannot be called. An error of the module's own code is raised as it is.
    """
    name, _, attribute = path.partition(":")
    if not attribute.isidentifier():
        raise ConfigError(f"{field}: {path!r} is not written MODULE:NAME, for example mypackage.nets:HRNet")
    module = import_module(name, f"{field}: {path}")
    if not hasattr(module, attribute):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise ConfigError(f"{field}: {path}: the module {name} ({module.__file__}) has no {attribute!r}"
                          f"{nearest(attribute, public)}")
    found = getattr(module, attribute)
    if not callable(found):
        raise ConfigError(f"{field}: {path} is of type {type(found).__name__}, which cannot be called; name a function "
                          "or a class")
    return found  # type: ignore[no-any-return]


def import_module(name: str, where: str) -> ModuleType:
    """Import a module, also from the working directory. `where` begins the message of an error.

    Raises ConfigError where it, or a module that it needs, cannot be imported.
    """
    if not _MODULE.fullmatch(name):
        raise ConfigError(f"{where}: {name!r} is no name of a module; write it as in an import, mypackage.nets")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(f"{where}: Python cannot import {name}: {error}; install it, or put its folder on PYTHONPATH "
                          f"or into the working directory ({here})") from error
    finally:
        sys.path.remove(here)


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message: the existing name that is most like one that does not exist."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; the nearest name is {close[0]}" if close else ""
