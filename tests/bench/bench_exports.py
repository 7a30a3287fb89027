"""Patches exported as other loaders want them, for bench_loader.py: by one process, from raw pixels in mapped files.

    python tests/bench/bench_exports.py JSON      an Export; prints the seconds that it took, imports not counted

Like bench_loaders.py it imports what it needs and no more, so that it runs in MosaicML Streaming's own environment.
Raw pixels are the fastest source there is, and every patch is written once: both are to the exports' favour.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Form = Literal["png", "litdata", "litdata_zstd", "mosaic", "mosaic_zstd"]
Way = Literal["png", "litdata", "mosaic"]
ZSTD = 1
"""Level of compression, as in the store."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Patches to write."""

    form: Form
    """As what."""
    raw: str
    """Folder of SCENE/{image,mask}.npy."""
    places: str
    """File of a list of (scene, row, col): the patches' first pixels."""
    size: int
    """Side of a patch."""
    out: str
    """Folder to be filled."""


def way_of(form: Form) -> Way:
    """Which library reads and writes it."""
    way: Way = form.removesuffix("_zstd")  # type: ignore[assignment]
    return way


def patches(export: Export) -> Iterator[dict[str, Array]]:
    """Images (3, size, size) and masks (size, size), uint8."""
    for scene, row, col in json.loads(Path(export.places).read_text()):
        yield cut(export.raw, export.size, scene, row, col)


def cut(raw: str, size: int, scene: str, row: int, col: int) -> dict[str, Array]:
    """One patch."""
    image_BHW, mask_HW = scene_arrays(raw, scene)
    here = np.s_[..., row:row + size, col:col + size]
    return {"image": image_BHW[here].copy(), "mask": mask_HW[here].copy()}


@cache
def scene_arrays(raw: str, scene: str) -> tuple[Array, Array]:
    """A scene's pixels, mapped."""
    image, mask = (np.load(Path(raw, scene, f"{part}.npy"), mmap_mode="r") for part in ("image", "mask"))
    return image, mask


def to_png(export: Export) -> None:
    """Two files a patch, by OpenCV with its own compression."""
    import cv2

    for index, patch in enumerate(patches(export)):
        stem = f"{export.out}/{index:06}"
        cv2.imwrite(f"{stem}_image.png", cv2.merge(list(patch["image"][::-1])))
        cv2.imwrite(f"{stem}_mask.png", patch["mask"])


def to_litdata(export: Export) -> None:
    """Chunks of 64 MB, as LitData's documentation has them, by one worker of its own."""
    from litdata import optimize

    optimize(fn=partial(_placed, export.raw, export.size), inputs=json.loads(Path(export.places).read_text()),
             output_dir=export.out, chunk_bytes="64MB", num_workers=1, mode="overwrite",
             compression=f"zstd:{ZSTD}" if export.form.endswith("zstd") else None)


def _placed(raw: str, size: int, place: tuple[str, int, int]) -> dict[str, Array]:
    return cut(raw, size, *place)


def to_mosaic(export: Export) -> None:
    """Shards of 64 MiB, MosaicML Streaming's default."""
    from streaming import MDSWriter

    columns = {"image": f"ndarray:uint8:3,{export.size},{export.size}",
               "mask": f"ndarray:uint8:{export.size},{export.size}"}
    with MDSWriter(out=export.out, columns=columns, exist_ok=True,
                   compression=f"zstd:{ZSTD}" if export.form.endswith("zstd") else None) as writer:
        for patch in patches(export):
            writer.write(patch)


WRITERS: Mapping[Way, Callable[[Export], None]] = {"png": to_png, "litdata": to_litdata, "mosaic": to_mosaic}
MODULES = {"png": "cv2", "litdata": "litdata", "mosaic": "streaming"}


def main() -> None:
    """Write; what libraries print goes to standard error."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    export = Export(**json.loads(sys.argv[1]))
    way = way_of(export.form)
    import_module(MODULES[way])
    began = time.perf_counter()
    WRITERS[way](export)
    print(time.perf_counter() - began, file=answer, flush=True)


if __name__ == "__main__":
    main()
