"""Predicting the bands of maps: what one process does with a model, for scenes one after the other.

Shapes: K classes, L layers of a band, h rows of a piece, W columns of the region. The layers are the class; then, where
they are wanted, the confidence, and the probability of each class, both as 0 … 254 for 0 … 1.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from swath.config import DeviceName, PatchesConfig
from swath.errors import DataError
from swath.geometry import Range, Region
from swath.maps.bands import ROWS, Bands
from swath.maps.geotiff import NO_SHARE, STEPS
from swath.maps.inputs import Area, Input
from swath.models import checkpoint, inference
from swath.models.checkpoint import ModelCard
from swath.models.inference import Forward
from swath.prediction import streaming
from swath.prediction.streaming import Part
from swath.runtime import choose_device, use_threads


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """Which model predicts, how, and what of it is kept. What a worker is sent."""

    folder: Path
    """The checkpoint."""
    device: DeviceName = "auto"
    cpus: int = 0
    """CPU cores; 0: all of the machine."""
    overlap: float = 0.5
    """Share of a window's side that it has in common with its neighbour."""
    symmetries: Literal[1, 8] = 1
    """Symmetries of the square that scores are averaged over."""
    confidence: bool = False
    """Whether the largest probability is kept."""
    probabilities: bool = False
    """Whether the probability of each class is kept."""

    def layers(self, classes: int) -> dict[str, slice]:
        """Where the layers of each kind stand in a band."""
        found, first = {"classes": slice(0, 1)}, 1
        for name, wanted, count in (("confidence", self.confidence, 1),
                                    ("probabilities", self.probabilities, classes)):
            if wanted:
                found[name] = slice(first, first + count)
                first += count
        return found


@dataclass(frozen=True, kw_only=True)
class SceneToMap:
    """A scene that is to be mapped."""

    source: Input
    area: Area | None
    """What of it; None: all."""
    bands: Bands

    @property
    def region(self) -> Region:
        """Rows and columns of the scene that are mapped."""
        return self.area.region if self.area else ((0, self.source.shape[0]), (0, self.source.shape[1]))


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A model that was loaded."""

    model: PredictionSettings
    card: ModelCard
    patches: PatchesConfig
    target: Literal["softmax", "one_vs_rest"]
    """What the scores were trained as."""
    forward: Forward
    device: torch.device

    def part(self, scene: SceneToMap, rows: Range) -> Part:
        """Some rows of a scene. Raises DataError where `planning.pixel_m` has no meaning in it."""
        return streaming.part_of_scene(scene.source, self.patches, pixel_m2=scene.source.pixel_m2,
                                       name=scene.source.origin, overlap=self.model.overlap, region=scene.region,
                                       rows=rows, tag=scene)


def load(model: PredictionSettings) -> Predictor:
    """Load a model. Raises CheckpointError, and ConfigError where its device is not there."""
    use_threads(model.cpus)
    device = choose_device(model.device)
    trained = checkpoint.load(model.folder)
    return Predictor(model=model, card=trained.card, patches=trained.config.patches, device=device,
                     target=trained.config.loss.target,
                     forward=inference.load_for_inference(trained, device, model.symmetries))


def run(predictor: Predictor, works: Iterable[tuple[SceneToMap, Range]]) -> Iterator[SceneToMap]:
    """Predict rows of scenes, whole bands, and write those that are not there yet. Yields a scene whenever a stretch of
    missing bands is done.

    Raises DataError for scores that are not finite and where a band cannot be written, and what reading raises.
    """
    lots = ([predictor.part(scene, stretch)] for scene, rows in works for stretch in scene.bands.missing(rows))
    size = streaming.batch_size(predictor.patches.size, predictor.patches.scales_per_sample)
    with closing(streaming.stream(lots, predictor.forward, classes=len(predictor.card.classes), batch=size,
                                device=predictor.device)) as pieces:
        writer: _Writer | None = None
        for part, row, scores_KhW in pieces:
            writer = writer or _Writer(part.tag, predictor)
            writer.add(row, scores_KhW)
            if row + scores_KhW.shape[1] == part.rows[1]:
                yield writer.scene
                writer = None


class _Writer:
    """Gathers finished rows into bands, and writes each when it is full."""

    def __init__(self, scene: SceneToMap, predictor: Predictor) -> None:
        self.scene, self._model, self._card = scene, predictor.model, predictor.card
        # Of one-vs-rest each class's own, not brought to a sum of 1: where all are low, no class fits.
        self._probabilities = torch.sigmoid if predictor.target == "one_vs_rest" else partial(torch.softmax, dim=0)
        self._filled = 0
        self._band_LhW = np.empty((scene.bands.layers, ROWS, scene.bands.width), np.uint8)

    def add(self, row: int, scores_KhW: torch.Tensor) -> None:
        """Take finished rows; a piece may reach over a band's end."""
        layers_LhW = self._layers(row, scores_KhW)
        start, past = 0, self.scene.bands.rows[1]
        while start < layers_LhW.shape[1]:
            first = row + start - self._filled
            height = min(ROWS, past - first)
            count = min(height - self._filled, layers_LhW.shape[1] - start)
            self._band_LhW[:, self._filled:self._filled + count] = layers_LhW[:, start:start + count]
            start, self._filled = start + count, self._filled + count
            if self._filled == height:
                self._finish(first, self._band_LhW[:, :height])
                self._filled = 0

    def _layers(self, row: int, scores_KhW: torch.Tensor) -> NDArray[np.uint8]:
        """uint8 (layers, h, W) of rows of scores."""
        try:
            layers = [streaming.classes_of_scores(row, scores_KhW)[None]]
        except DataError as error:
            raise DataError(f"{self.scene.source.origin}: {error}") from None
        if self._model.confidence or self._model.probabilities:
            shares_KhW = self._probabilities(scores_KhW).mul_(STEPS).round_().to(torch.uint8)
            if self._model.confidence:
                layers.append(shares_KhW.amax(0, keepdim=True).cpu().numpy())
            if self._model.probabilities:
                layers.append(shares_KhW.cpu().numpy())
        return np.concatenate(layers)

    def _finish(self, first: int, band_LhW: NDArray[np.uint8]) -> None:
        """Write a band, with nodata where the source has none, and outside of the area."""
        rows, cols = (first, first + band_LhW.shape[1]), self.scene.region[1]
        for inside_hW in (self.scene.source.valid(rows, cols),
                          self.scene.area.inside(rows, cols) if self.scene.area else None):
            if inside_hW is not None:
                band_LhW[0][~inside_hW] = self._card.ignore
                band_LhW[1:, ~inside_hW] = NO_SHARE
        self.scene.bands.write(first, band_LhW)
