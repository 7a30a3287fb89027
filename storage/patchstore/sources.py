"""Where scenes come from: adapters that find images with their masks, and a look at them ahead of an ingest."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from patchstore.errors import SourceError
from patchstore.raster import RasterInfo, inspect_raster, open_dataset

_SIDECARS = (".aux.xml", ".ovr", ".msk", ".tfw", ".jgw", ".pgw", ".wld", ".prj")
"""Files that GDAL keeps beside a raster; a pattern such as images/* finds them too."""
_TILE = re.compile(r"Tile (\d+)/images/image_part_(\d+)\.\w+$")


@dataclass(frozen=True, kw_only=True)
class SceneSource:
    """The files of one scene."""

    name: str
    image: Path
    mask: Path | None = None
    group: str
    """Scenes of one group show adjoining or the same ground."""
    origin: tuple[int, int] = (0, 0)
    """Row and column of the scene's first pixel in its group."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith((".", "__")) or self.name == "zarr.json":
            raise SourceError(f"{self.image}: {self.name!r} cannot name a scene; rename the file")


def find_folder(source: Path, images: str = "images/*", masks: str = "masks/*", group: str = "") -> list[SceneSource]:
    """Pair images with masks of the same file name (but for the ending); scenes by name.

    `masks` empty: images only. `group`: a regular expression whose first group, searched in a scene's name, is its
    group; empty: each scene is one of its own. Raises SourceError when there is no image, when an image or a mask is
    without its other, or when two files have one name.
    """
    image_of = _by_stem(source, images, "image")
    mask_of = _by_stem(source, masks, "mask") if masks else {}
    if masks:
        _check_paired(image_of, mask_of, f"mask of the same name among {source / masks}")
        _check_paired(mask_of, image_of, f"image of the same name among {source / images}")
    return [SceneSource(name=stem, image=path, mask=mask_of.get(stem), group=_group(stem, group))
            for stem, path in sorted(image_of.items())]


def find_tiles(source: Path) -> list[SceneSource]:
    """Read the layout `Tile K/images/image_part_00P.*` with `Tile K/masks/*`; scenes tile_K_part_00P by tile and part.

    The nine parts of a tile are a row-major 3 x 3 grid of one image, and one group. Raises SourceError when there is no
    tile, or one that has not its nine parts and their masks.
    """
    pattern = "Tile */images/image_part_*"
    tiles: dict[int, dict[int, Path]] = {}
    for path in _files(source, pattern, "image"):
        match = _TILE.search(path.as_posix())
        if match is None:
            raise SourceError(f"{path}: is not named like Tile 1/images/image_part_001.jpg")
        tiles.setdefault(int(match[1]), {})[int(match[2])] = path
    for path in _files(source, "Tile */masks/image_part_*", "mask"):
        if not any(image.stem == path.stem for image in (path.parent.parent / "images").iterdir()):
            raise SourceError(f"{path}: has no image of the same name in {path.parent.parent / 'images'}")
    return [scene for tile, parts in sorted(tiles.items()) for scene in _tile(source, tile, parts)]


def inspect(source: SceneSource) -> RasterInfo:
    """What the header of a scene's image says. Raises SourceError."""
    return inspect_raster(source.image)


def check(sources: Sequence[SceneSource]) -> list[RasterInfo]:
    """Look at all headers ahead of any write; returns those of the images, in order.

    Raises SourceError when a file cannot be read, a mask has not its image's size, bands or dtype differ between
    scenes, or a name stands twice.
    """
    infos: list[RasterInfo] = []
    seen: dict[str, SceneSource] = {}
    for source in sources:
        if source.name in seen:
            raise SourceError(f"{source.image} and {seen[source.name].image} would both be scene {source.name}; rename "
                              "one of them")
        seen[source.name] = source
        info = inspect(source)
        infos.append(info)
        first = infos[0]
        if (info.bands, info.dtype) != (first.bands, first.dtype):
            raise SourceError(f"{source.image}: has {info.bands} bands of {info.dtype}, but {sources[0].image} has "
                              f"{first.bands} of {first.dtype}; one store holds one kind")
        if source.mask is not None:
            check_mask(source.mask, source.image, info.shape)
    return infos


def check_mask(mask: Path, image: Path, shape: tuple[int, int]) -> None:
    """Raises SourceError when a mask cannot be read or has not the size of its image."""
    with open_dataset(mask) as dataset:
        if (dataset.height, dataset.width) != shape:
            raise SourceError(f"{mask}: is {dataset.height} x {dataset.width} pixels (rows x columns), but its image "
                              f"{image} is {shape[0]} x {shape[1]}")


def _files(source: Path, pattern: str, what: str) -> list[Path]:
    if not source.is_dir():
        raise SourceError(f"{source}: is not a folder")
    if not pattern or Path(pattern).is_absolute():
        raise SourceError(f"{source}: the pattern of the {what}s must be relative to the folder, got {pattern!r}")
    found = sorted(path for path in source.glob(pattern)
                   if path.is_file() and not path.name.startswith(".") and not path.name.lower().endswith(_SIDECARS))
    if not found:
        raise SourceError(f"{source}: no {what} found by the pattern {pattern!r}")
    return found


def _by_stem(source: Path, pattern: str, what: str) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for path in _files(source, pattern, what):
        if path.stem in paths:
            raise SourceError(f"{path} and {paths[path.stem]} have the same name; rename one, or give a pattern "
                              f"that finds one of them ({pattern!r} finds both)")
        paths[path.stem] = path
    return paths


def _check_paired(one: dict[str, Path], other: dict[str, Path], what: str) -> None:
    alone = [path for stem, path in one.items() if stem not in other]
    if alone:
        more = f" (nor have {len(alone) - 1} others)" if len(alone) > 1 else ""
        raise SourceError(f"{alone[0]}: has no {what}{more}")


def _group(name: str, pattern: str) -> str:
    if not pattern:
        return name
    try:
        match = re.search(pattern, name)
        found = match[1] if match else None
    except (re.error, IndexError) as error:
        raise SourceError(f"group: {pattern!r} is not a regular expression with a group in brackets "
                          f"({error})") from None
    if not found:
        raise SourceError(f"scene {name}: the group's regular expression {pattern!r} finds nothing in its name")
    return found


def _tile(source: Path, tile: int, parts: dict[int, Path]) -> list[SceneSource]:
    if sorted(parts) != list(range(1, 10)):
        raise SourceError(f"{source / f'Tile {tile}'}: has the parts {sorted(parts)}, but the parts' places in the "
                          "tile need all of 1 … 9")
    shapes = {part: inspect_raster(path).shape for part, path in parts.items()}
    scenes = []
    for part, path in sorted(parts.items()):
        masks = sorted((path.parent.parent / "masks").glob(f"{path.stem}.*"))
        if len(masks) != 1:
            raise SourceError(f"{path}: must have one mask {path.stem}.* in {path.parent.parent / 'masks'}, "
                              f"found {len(masks)}")
        above, left = range(part - 3, 0, -3), range(part - (part - 1) % 3, part)
        scenes.append(SceneSource(name=f"tile_{tile}_part_{part:03d}", image=path, mask=masks[0], group=f"tile_{tile}",
                                  origin=(sum(shapes[p][0] for p in above), sum(shapes[p][1] for p in left))))
    return scenes
