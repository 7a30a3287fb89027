"""MBRSC's Dubai: large images that were cut into nine parts each."""

import re
from collections.abc import Mapping
from pathlib import Path

from patchstore.errors import SourceError
from patchstore.sources.pairing import Found, find_files
from patchstore.sources.raster import inspect_raster
from patchstore.sources.scene_source import SceneSource

_TILE = re.compile(r"/Tile ([1-9]\d*)/images/image_part_(\d{3})\.\w+$")


def find_tiles(source: Path) -> Found:
    """MBRSC's Dubai: `Tile K/images/image_part_00P.*` with `Tile K/masks/*`; scenes tile_K_part_00P by tile and part.

    The nine parts of a tile are a row-major 3 x 3 grid of one image, and one group. A tile without all nine images is
    rejected whole, since the parts' places follow from their neighbours' sizes.
    """
    images = find_files(source, "Tile */images/image_part_*", "image")
    masks = find_files(source, "Tile */masks/image_part_*", "mask")
    rejected = [line for files in (images, masks) for line in files.refused(images.at)]
    tiles: dict[int, dict[int, Path]] = {}
    for path, *more in images.at.values():
        match = _TILE.search(path.as_posix())
        if match is None:
            rejected.append(f"{path}: is not named like Tile 1/images/image_part_001.jpg")
        elif not more:
            tiles.setdefault(int(match[1]), {})[int(match[2])] = path
    scenes: list[SceneSource] = []
    for tile, parts in sorted(tiles.items()):
        origins = _origins(parts)
        for part, path in sorted(parts.items()):
            try:
                if isinstance(origins, str):
                    raise SourceError(origins)
                scenes.append(SceneSource(
                    name=f"tile_{tile}_part_{part:03d}", image=path, group=f"tile_{tile}", origin=origins[part],
                    mask=masks.of((path.parent.parent.name, path.stem))))
            except SourceError as error:
                rejected.append(f"{path}: {error}")
    return Found(scenes=tuple(scenes), rejected=tuple(rejected))


def _origins(parts: Mapping[int, Path]) -> dict[int, tuple[int, int]] | str:
    """Row and column of each part in its tile, or why they cannot be known."""
    if sorted(parts) != list(range(1, 10)):
        return f"its tile has the parts {sorted(parts)}, but the parts' places in it need all of 1 … 9"
    try:
        shapes = {part: inspect_raster(path).shape for part, path in parts.items()}
    except SourceError as error:
        return f"its place in the tile needs every part of it ({error})"
    return {part: (sum(shapes[p][0] for p in range(part - 3, 0, -3)),
                   sum(shapes[p][1] for p in range(part - (part - 1) % 3, part))) for part in parts}
