"""What a run was made with, beside its configuration: code, packages, machine; and what it was warned of."""

import hashlib
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import torch

import patchstore

_ROOTS = (Path(__file__).parents[1], Path(patchstore.__file__).parent)  # the whole of both packages


def environment() -> dict[str, Any]:
    """Code, packages, command and machine of this process, as JSON has it."""
    return {"swath": metadata.version("swath"), "code": code(), "commit": commit(), "python": sys.version.split()[0],
            "packages": dict(sorted((found.name, found.version) for found in metadata.distributions() if found.name)),
            "command": sys.argv, "machine": machine()}


def code() -> str:
    """Twelve hexadecimal digits of the content of the two packages' source, wherever they were installed from."""
    digest = hashlib.sha256()
    for root in _ROOTS:
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def commit() -> str | None:
    """The commit that the source lies at, with a + where files were changed since; none where it is no checkout."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(_ROOTS[0]), *arguments], capture_output=True, text=True, check=True,
                              timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(Path(__file__)))  # a package installed into somebody else's checkout
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def machine() -> dict[str, Any]:
    """What this process runs on."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "gpus": [f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB" for gpu in gpus]}


@contextmanager
def recording_warnings(note: Callable[[str], None]) -> Iterator[None]:
    """Take the warnings of this process into a run's record, each once, while they are shown as ever."""
    show, said = warnings.showwarning, set[str]()

    def both(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
             line: str | None = None) -> None:
        text = f"{category.__name__}: {message}"
        if text not in said:
            said.add(text)
            note(text)
        show(message, category, filename, lineno, file, line)

    warnings.showwarning = both
    try:
        yield
    finally:
        warnings.showwarning = show
