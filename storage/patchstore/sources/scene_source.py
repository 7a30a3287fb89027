"""The files of a scene."""

from dataclasses import dataclass
from pathlib import Path

from patchstore.errors import SourceError


@dataclass(frozen=True, kw_only=True)
class SceneSource:
    """The files of one scene."""

    name: str
    image: Path
    stacked: tuple[Path, ...] = ()
    """Further rasters of the same place, such as near infrared or height; their bands follow the image's."""
    mask: Path | None = None
    """Labels: a raster, or a vector file of polygons."""
    area: Path | None = None
    """Vector file of the area of interest; labels outside its polygons are ignored."""
    group: str
    """Scenes of one group show adjoining or the same ground."""
    origin: tuple[int, int] = (0, 0)
    """Row and column of the scene's first pixel in its group."""
    crs: str = ""
    """CRS of an image that has a transform but names none (a world file), such as EPSG:32634."""
    align: bool = False
    """Whether files on another grid than the image's are warped to it; else they are an error."""

    def __post_init__(self) -> None:
        wrong = set("/\\") & set(self.name) or self.name.startswith((".", "__")) or self.name.endswith(".__lock")
        if not self.name or wrong or self.name == "zarr.json":
            raise SourceError(f"{self.image}: {self.name!r} cannot name a scene; rename the file")
