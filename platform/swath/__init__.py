"""swath: patches from a store -> model -> score of whole scenes -> map. `swath.api` has the functions.

Names are imported at their first use: a process that needs a part does not pay for the whole.
"""

import importlib
import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

# Nothing phones home unless a user says so. The libraries read these when they are first imported, whichever module
# of swath is imported first, so this is the one place where importing has an effect.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

if TYPE_CHECKING:
    from swath.api import Evaluation, Model, Plan, Run, evaluate, ingest, load, plan, recipe, search, train
    from swath.config import Config

    __version__: str

_LATER = {
    "swath.api": ("Evaluation", "Model", "Plan", "Run", "evaluate", "ingest", "load", "plan", "recipe", "search",
                  "train"),
    "swath.config": ("Config",),
}

__all__ = ["Config", "Evaluation", "Model", "Plan", "Run", "__version__", "evaluate", "ingest", "load", "plan",
           "recipe", "search", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("swath")
    for module, names in _LATER.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'swath' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
