"""The rasters of a folder, where nobody gives a pattern: by the usual endings."""

from pathlib import Path

ENDINGS = (".tif", ".tiff", ".vrt", ".img", ".jp2", ".j2k", ".ntf", ".asc", ".bil", ".webp", ".png", ".bmp", ".gif",
           ".jpg", ".jpeg")
"""Endings of files that GDAL reads and that are commonly rasters of their own, not a part of another."""


def rasters(folder: Path, *, deep: bool = False) -> list[Path]:
    """The rasters in a folder by name, with `deep` also those of the folders below it; hidden ones are left out."""
    paths = folder.rglob("*") if deep else folder.iterdir()
    return sorted(path for path in paths if path.suffix.lower() in ENDINGS and path.is_file()
                  and not any(part.startswith(".") for part in path.relative_to(folder).parts))
