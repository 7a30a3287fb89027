"""ICG's semantic drone set: photos from a drone with masks of class indices."""

from dataclasses import replace
from glob import escape
from pathlib import Path

from patchstore.errors import SourceError
from patchstore.sources.datasets.class_table import find_table, read_table
from patchstore.sources.datasets.folder import find_folder
from patchstore.sources.pairing import Found


def find_icg_drone(source: Path) -> Found:
    """ICG's semantic drone set: `original_images/NAME.jpg` with masks `label_images_semantic/NAME.png`.

    The two folders lie anywhere below the source, one of each. A mask's values are indices of classes in the order of
    class_dict_seg.csv (below the source, or up to two folders above it); `unlabeled`, the first, is one of them. Each
    photo is a group of its own: the set does not say which show the same ground.
    """
    if not source.is_dir():
        raise SourceError(f"{source}: is not a folder")
    table = find_table(source, "class_dict_seg.csv")
    if table is None:
        raise SourceError(f"{source}: there is no class_dict_seg.csv in it or in the two folders above; the masks' "
                          "indices mean the order of its lines")
    images, masks = (_only_folder(source, name) for name in ("original_images", "label_images_semantic"))
    return replace(find_folder(source, f"{images}/*.jpg", f"{masks}/*.png"), classes=read_table(table))


def _only_folder(source: Path, name: str) -> str:
    """Pattern, below a source, of the one folder of that name. Raises SourceError."""
    found = sorted(path for path in source.rglob(name) if path.is_dir())
    if len(found) != 1:
        raise SourceError(f"{source}: must have one folder {name} below it, has {len(found)}"
                          + "".join(f"; {path}" for path in found))
    return escape(found[0].relative_to(source).as_posix())
