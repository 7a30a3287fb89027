"""Where this repository lies, and where real imagery lies."""

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DATA = Path(os.environ.get("SWATH_DATA", ROOT.parent / "shared" / "data"))
"""Folder of real imagery: obx/, dubai/ and naip/. Tests that need it are skipped where it is absent."""
