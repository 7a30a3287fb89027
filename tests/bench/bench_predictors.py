"""Ways to predict a scene, for bench_predict.py, each in a process of its own: its seconds, and the most memory that it
had above its imports.

    python tests/bench/bench_predictors.py '{"task": "ours", "network": "small", "image": TIF, "out": NPY}'

prints one line of JSON. Shapes: B bands, K classes, H x W of the scene, N windows of s x s pixels.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchstore import RasterFile
from patchstore.format.schema import colour
from patchstore.testing import scenes
from swath.config import Config, ModelConfig, PatchesConfig
from swath.models import checkpoint, inference
from swath.models import network as models
from swath.models.inference import Forward
from swath.models.run_state import RunState
from swath.prediction import streaming
from swath.runtime import use_threads

SIZE = 256
OVERLAP = 0.5
BANDS, CLASSES = 3, len(scenes.CLASSES)
NETWORKS: Mapping[str, ModelConfig] = {"small": ModelConfig(arch="unet", encoder="tu-mobilenetv3_small_050"),
                                       "large": ModelConfig(arch="unet", encoder="resnet50")}
CONVOLUTION = "benchconvolution"
"""Name by which smp builds a `Convolution`."""


class Convolution(nn.Module):
    """An architecture for smp that is one convolution of 3 x 3 and ignores its encoder: what it takes to predict a
    scene with it is what it takes to read, blend and write."""

    def __init__(self, *, in_channels: int, classes: int, encoder_name: str, encoder_weights: str | None) -> None:
        super().__init__()
        self.encoder = nn.Identity()
        self.encoder.output_stride = 1
        self.convolution = nn.Conv2d(in_channels, classes, 3, padding=1)

    def forward(self, x_NBHW: Tensor) -> Tensor:
        """logits_NKHW."""
        return self.convolution(x_NBHW)


def network(model: ModelConfig) -> models.Net:
    """A network of random weights, the same in each process."""
    torch.manual_seed(0)
    return models.build(model, models.DataTraits(bands=BANDS, classes=CLASSES, mean_B=[128.0] * BANDS,
                                                 std_B=[64.0] * BANDS)).eval()


def save_convolution(folder: Path) -> None:
    """Write a checkpoint of a `Convolution` into an empty folder."""
    smp.MODEL_ARCHITECTURES_MAPPING[CONVOLUTION] = Convolution
    config = Config(patches=PatchesConfig(size=SIZE), model=ModelConfig(arch=CONVOLUTION))
    names, colours = zip(*(pair.split("=") for pair in scenes.CLASSES))
    card = checkpoint.ModelCard(store="", fingerprint="", bands=BANDS, dtype="uint8", classes=names, ignore=255,
                           colours=tuple(colour(code) for code in colours))
    checkpoint.save(folder, RunState(net=network(config.model).state_dict()), config, card)


def job(argument: Mapping[str, Any]) -> dict[str, float]:
    """The whole of predicting a file by a `Convolution`: bands, map and quick look."""
    from swath.maps import apply

    smp.MODEL_ARCHITECTURES_MAPPING[CONVOLUTION] = Convolution
    request = apply.Request(run=argument["run"], source=argument["image"], output=Path(argument["out"]),
                            workdir=Path(argument["out"]).parent, overlap=OVERLAP, overwrite=True)
    with _watched() as figures:
        apply.predict(request)
    return figures


def ours(forward: Forward, image: Path, batch: int) -> NDArray[np.uint8]:
    """Finished rows, as they come."""
    scene = RasterFile(image)
    whole = streaming.part(scene, size=SIZE, scales=(1,), overlap=OVERLAP)
    classes_HW = np.empty(scene.shape, np.uint8)
    for row, piece_hW in streaming.classes_of(streaming.blend(whole, forward, classes=CLASSES, batch=batch)):
        classes_HW[row:row + len(piece_hW)] = piece_hW
    return classes_HW


def tutorial(forward: Forward, image: Path, batch: int) -> NDArray[np.uint8]:
    """The blending of most tutorials, that of Smoothly-Blend-Image-Patches (Vooban, 2017): the scene is mirrored half a
    window beyond its edges, and probabilities are summed under its spline, for the whole scene at once.

    Without its eight rotations, and with less memory than it takes: it holds all patches, sums in float64 and copies.
    """
    from scipy.signal.windows import triang

    margin = SIZE // 2
    padded_BHW = np.pad(_pixels(image), ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    rising_s = triang(SIZE)
    spline_s = np.where(rising_s < 0.5, (2 * rising_s) ** 2 / 2, 1 - (2 * (rising_s - 1)) ** 2 / 2)
    weights_ss = torch.from_numpy(np.outer(spline_s, spline_s).astype(np.float32))
    height, width = padded_BHW.shape[1:]
    corners = [(row, col) for row in range(0, height - SIZE + 1, margin) for col in range(0, width - SIZE + 1, margin)]
    sums_KHW = torch.zeros(CLASSES, height, width)
    for first in range(0, len(corners), batch):
        some = corners[first:first + batch]
        images_NBss = np.stack([padded_BHW[:, row:row + SIZE, col:col + SIZE] for row, col in some])
        shares_NKss = forward(torch.from_numpy(images_NBss)[:, None]).softmax(1)
        for (row, col), shares_Kss in zip(some, shares_NKss, strict=True):
            sums_KHW[:, row:row + SIZE, col:col + SIZE] += shares_Kss * weights_ss
    return sums_KHW[:, margin:-margin, margin:-margin].argmax(0).to(torch.uint8).numpy()


def monai(forward: Forward, image: Path, batch: int) -> NDArray[np.uint8]:
    """MONAI's sliding-window inferer; it sums in the type of its input, which is float32 therefore."""
    from monai.inferers import sliding_window_inference

    pixels_1BHW = torch.from_numpy(_pixels(image))[None].float()
    scores_1KHW = sliding_window_inference(pixels_1BHW, (SIZE, SIZE), batch, lambda x_NBss: forward(x_NBss[:, None]),
                                           overlap=OVERLAP, mode="gaussian")
    assert isinstance(scores_1KHW, Tensor)
    return scores_1KHW[0].argmax(0).to(torch.uint8).numpy()


SCENE_WAYS: Mapping[str, Callable[[Forward, Path, int], NDArray[np.uint8]]] = {
    "ours": ours, "tutorial": tutorial, "monai": monai}
"""From a file to classes_HW in memory."""


def one_way(argument: Mapping[str, Any]) -> dict[str, float]:
    """Predict a scene in one way, and write its classes down. The network's first pass is not timed; beyond_mb is what
    the rest needs above it."""
    way, forward = SCENE_WAYS[argument["task"]], inference.network_forward(network(NETWORKS[argument["network"]]))
    batch = streaming.batch_size(SIZE)
    if argument["task"] == "monai":
        import monai.inferers  # noqa: F401  # an import, not a part of what it takes
    else:
        import scipy.signal.windows  # noqa: F401
    with _watched() as figures, torch.inference_mode():
        forward(torch.zeros(batch, 1, BANDS, SIZE, SIZE, dtype=torch.uint8))
        pass_mb = _status_mb("VmHWM")
        began = time.perf_counter()
        classes_HW = way(forward, Path(argument["image"]), batch)
        seconds, beyond_mb = time.perf_counter() - began, _status_mb("VmHWM") - pass_mb
    np.save(argument["out"], classes_HW)
    return {**figures, "seconds": seconds, "beyond_mb": beyond_mb}


def _pixels(image: Path) -> NDArray[np.uint8]:
    """pixels_BHW of a file."""
    with rasterio.open(image) as dataset:
        pixels_BHW: NDArray[np.uint8] = dataset.read()
    return pixels_BHW


@contextmanager
def _watched() -> Iterator[dict[str, float]]:
    """The seconds meanwhile, and the MB that this process had at most above those at the start, as Linux counts them.

    Not getrusage's figure: that of a process begins with what its parent had.
    """
    figures: dict[str, float] = {}
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew: imports had their peak as well
    start_mb, began = _status_mb("VmRSS"), time.perf_counter()
    yield figures
    figures.update(seconds=time.perf_counter() - began, mb=_status_mb("VmHWM") - start_mb)


def _status_mb(field: str) -> float:
    """A figure of /proc/self/status in 10⁶ bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024 / 1e6


def main() -> None:
    """Do a task; what libraries print goes to standard error."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    argument = json.loads(sys.argv[1])
    use_threads(0)
    figures = job(argument) if argument["task"] == "job" else one_way(argument)
    print(json.dumps(figures), file=answer, flush=True)


if __name__ == "__main__":
    main()
