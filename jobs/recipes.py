"""The named experiments, which are installed with swath (`swath.recipes`)."""

from swath.recipes import *  # noqa: F403
