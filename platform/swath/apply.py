"""Apply a trained model: map a scene file that was never ingested."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchstore.conventions import pixel_m2
from patchstore.raster import RasterFile
from swath import maps, patches, predict
from swath.context import DeviceName
from swath.errors import DataError
from swath.evaluate import find, ready


@dataclass(frozen=True, kw_only=True)
class Map:
    """A map that was written."""

    output: Path
    quicklook: Path
    shape: tuple[int, int]
    class_pixels: dict[str, int]
    """Pixels of each class."""
    nodata: int
    """Pixels where the source has none."""


def predict_file(run: str, source: Path, output: Path, *, workdir: Path, uri: str = "", device: DeviceName = "auto"
                 ) -> Map:
    """Map a scene file: a Cloud-Optimised GeoTIFF with the file's CRS and transform, and a PNG beside it.

    The whole scene goes through the same windows and weights as the score does.
    Raises what `find` does, a SourceError for a file that cannot be read or whose bands or dtype are not the model's,
    and DataError where the output cannot be written, is no .tif, or would take the place of the source, and where the
    model sees metres (`patches.pixel_m`) and the file's CRS gives none, or pixels too fine or coarse for it.
    """
    picture = output.with_suffix(".png")
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise DataError(f"{output}: a map is a GeoTIFF; give a name that ends in .tif")
    if source.resolve() in (output.resolve(), picture.resolve()):
        raise DataError(f"{output}: the map, or its picture {picture.name}, would take the place of {source}; give "
                        "another name")
    trained, _ = find(run, workdir, uri)
    config, card = trained.config, trained.card
    reader = RasterFile(source, bands=card.bands, dtype=np.dtype(card.dtype))
    scales = patches.factors(config.patches, pixel_m2(reader.crs, reader.transform), str(source))
    forward, place = ready(trained, device)
    whole = predict.part(reader, size=config.patches.size, scales=scales, overlap=config.score.overlap)
    blended = predict.blend(whole, forward, classes=len(card.classes), batch=predict.batch_size(config.patches.size),
                            device=place)
    pixels_K = np.zeros(256, np.int64)

    def rows() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for row, classes_hW in predict.classes_of(blended):
            if reader.has_valid:
                inside = reader.valid((row, row + len(classes_hW)), (0, reader.shape[1]))
                classes_hW = np.where(inside, classes_hW, np.uint8(card.ignore))
            pixels_K[:] += np.bincount(classes_hW.ravel(), minlength=256)
            yield row, classes_hW

    maps.write_map(output, rows(), shape=reader.shape, crs=reader.crs, transform=reader.transform, names=card.classes,
                   colours=card.colours, nodata=card.ignore, tags={"SOURCE": source.name})
    maps.quicklook(output, picture)
    return Map(output=output, quicklook=picture, shape=reader.shape, nodata=int(pixels_K[card.ignore]),
               class_pixels={name: int(n) for name, n in zip(card.classes, pixels_K, strict=False)})
