"""The bands of a map while it is made: each is written as soon as it is known, and a job that was ended goes on.

    .NAME.tif.JOB.bands/job.json     what the bands follow from; JOB is its digest, so that no other job meets them
                        00012.npy    band 12: uint8 (L layers, h rows, W columns of the region)

How a region is cut depends on its rows alone, so that any number of workers writes the same bands.
"""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.errors import DataError
from swath.geometry import Range

ROWS = 1024
"""Rows of a band, but for the last: few files, and little to be done again."""
CARD = "job.json"


def folder_of(output: Path, job: Mapping[str, Any]) -> Path:
    """Where the bands of a map are kept while a job makes it."""
    return output.with_name(f".{output.name}.{digest(job)}.bands")


def others(output: Path, job: Mapping[str, Any]) -> dict[Path, list[str]]:
    """Folders of bands that other jobs have left for an output, each with what its job has otherwise."""
    found: dict[Path, list[str]] = {}
    mine = json.loads(json.dumps(job))
    for folder in sorted(output.parent.glob(f".{glob.escape(output.name)}.*.bands")):
        if folder == folder_of(output, job):
            continue
        try:
            before = json.loads((folder / CARD).read_text())
        except (OSError, ValueError):
            before = {}
        found[folder] = [name for name in sorted(before.keys() | mine.keys()) if before.get(name) != mine.get(name)]
    return found


@dataclass(frozen=True, kw_only=True)
class Bands:
    """The bands of one map. Pickles as what it says; several processes may write different ones."""

    folder: Path
    rows: Range
    """First row of the region in the scene, and the one past its last."""
    width: int
    layers: int

    @property
    def ranges(self) -> list[Range]:
        """Rows of each band."""
        first, past = self.rows
        return [(row, min(row + ROWS, past)) for row in range(first, past, ROWS)]

    def begin(self, job: Mapping[str, Any], *, resume: bool) -> None:
        """Make the folder, or, to resume, take what an earlier job has left there.

        job: what decides the bands' bytes, as JSON can hold it. Raises DataError when the folder cannot be written.
        """
        card = self.folder / CARD
        if resume and card.exists():
            for left in self.folder.glob("*/"):  # what was being written when the job was ended
                shutil.rmtree(left)
            return
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            fresh = card.with_suffix(".new")
            fresh.write_text(json.dumps(job, indent=2, sort_keys=True))
            fresh.rename(card)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written ({error}); give another output") from None

    def missing(self, rows: Range | None = None) -> list[Range]:
        """Rows of the bands that are not there yet, of all or of those that lie in some rows; neighbours as one."""
        found: list[Range] = []
        for index, (first, past) in enumerate(self.ranges):
            if self._path(index).exists() or (rows and not rows[0] <= first < rows[1]):
                continue
            if found and found[-1][1] == first:
                first = found.pop()[0]
            found.append((first, past))
        return found

    def write(self, first: int, band_LhW: NDArray[np.uint8]) -> None:
        """Write the band whose first row is `first`: it is there when it is whole. Raises DataError."""
        path = self._path((first - self.rows[0]) // ROWS)
        fresh = path.with_suffix(f".{os.getpid()}")
        try:
            with fresh.open("wb") as file:
                np.save(file, band_LhW, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
        except FileNotFoundError:
            raise DataError(f"{self.folder}: was removed while its map was made; is another job at work on the same "
                            "output?") from None
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise DataError(f"{path}: cannot be written ({error}); make room, and predict again with --resume"
                            ) from None

    def pieces(self, layers: slice) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Some layers of every band, from the top: (first row, uint8 (layers, h, W))."""
        for index, (first, past) in enumerate(self.ranges):
            try:
                band_LhW = np.load(self._path(index), mmap_mode="r", allow_pickle=False)
            except (ValueError, EOFError, OSError) as error:
                raise DataError(f"{self._path(index)}: cannot be read ({error}); remove it, and predict again with "
                                "--resume") from None
            if band_LhW.shape != (self.layers, past - first, self.width) or band_LhW.dtype != np.uint8:
                raise DataError(f"{self._path(index)}: holds {band_LhW.dtype} {band_LhW.shape}, not a band of this "
                                "map; remove it, and predict again with --resume")
            yield first, np.ascontiguousarray(band_LhW[layers])

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.npy"


def digest(job: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for a job."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:12]


def cut(ranges: list[Range], most: int) -> list[Range]:
    """Stretches of rows in pieces of at most `most` bands."""
    return [(row, min(row + most * ROWS, past)) for first, past in ranges for row in range(first, past, most * ROWS)]
