"""Scores of whole scenes: overlapping windows through a network, blended, row by row from the top.

Shapes: N windows of a batch, B bands, K classes, H x W of a scene, h rows of one piece, s the side of a window.
Memory is a few times that of one row of windows (K x side x columns of the region), whatever the scene's height.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from patchstore import Store, Window
from swath.blend import Lattice, Region, lattice
from swath.errors import DataError

Forward = Callable[[torch.Tensor], torch.Tensor]
"""images_NBss, of the scene's dtype and on the device, to float32 scores_NKss."""
Precision = Literal["fp32", "bf16"]
Rows = Generator[tuple[int, torch.Tensor], None, None]
"""Finished rows, from top to bottom: the scene row of the first, and scores_KhW of the region's columns. Closing it
(or dropping the last reference) ends its reading thread."""


class Reader(Protocol):
    """Pixels of one scene. A raster of the store, a file and an array are read alike."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the scene."""
        ...

    @property
    def bands(self) -> int:
        """Bands of an image."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel."""
        ...

    def read(self, windows: Sequence[tuple[int, int, int]], size: int, /) -> NDArray[Any]:
        """images_NBHW of `size` pixels a side, for windows (row, col, side) in full-resolution scene pixels."""
        ...


class ArrayReader:
    """A scene in memory, at scale 1; outside of it pixels are mirrored (b a | a b c …)."""

    def __init__(self, image_BHW: NDArray[Any]) -> None:
        if image_BHW.ndim != 3 or 0 in image_BHW.shape:
            raise ValueError(f"an image must be (bands, rows, columns) with a pixel at least, got {image_BHW.shape}")
        self.image_BHW = image_BHW
        self.bands: int = image_BHW.shape[0]
        self.shape: tuple[int, int] = image_BHW.shape[1:]
        self.dtype: np.dtype[Any] = image_BHW.dtype

    def read(self, windows: Sequence[tuple[int, int, int]], size: int, /) -> NDArray[Any]:
        """See `Reader`. Raises ValueError for a window of another side than `size`."""
        images = np.empty((len(windows), self.bands, size, size), self.dtype)
        for image, (row, col, side) in zip(images, windows, strict=True):
            if side != size:
                raise ValueError(f"an array is read at scale 1 only: side {side} is not the size {size}")
            rows, cols = _mirrored(row, side, self.shape[0]), _mirrored(col, side, self.shape[1])
            image[:] = self.image_BHW[:, rows[:, None], cols]
        return images


def _mirrored(start: int, side: int, length: int) -> NDArray[np.int64]:
    index = np.arange(start, start + side) % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)


@dataclass(frozen=True)
class StoreReader:
    """A scene of a store."""

    store: Store
    scene: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the scene."""
        return self.store.scenes[self.scene].shape

    @property
    def bands(self) -> int:
        """Bands of the store."""
        return self.store.bands

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the store's pixels."""
        return self.store.dtype

    def read(self, windows: Sequence[tuple[int, int, int]], size: int, /) -> NDArray[Any]:
        """See `Reader`."""
        return self.store.read([Window(self.scene, row, col, side) for row, col, side in windows], size)[0]


def blend(reader: Reader, forward: Forward, *, classes: int, size: int, scale: float, overlap: float, batch: int,
          region: Region | None = None, device: str | torch.device = "cpu") -> Rows:
    """Scores of a region (default: the whole scene) from windows of `size` pixels that span size x scale scene pixels.

    The windows are those of the whole scene, so a region has the values that it has in the whole. At a scale other
    than 1 scores are brought to full resolution bilinearly before they are blended, below 1 with antialiasing.

    Raises ValueError for settings that make no sense and for scores of another shape than (N, classes, size, size).
    """
    if batch < 1 or classes < 1 or size < 1 or round(size * scale) < 1:
        raise ValueError("batch, classes, size and the pixels of a window's side (size x scale) must be 1 or more, got "
                         f"{batch}, {classes}, {size} and {size} x {scale}")
    windows = lattice(reader.shape, round(size * scale), overlap)
    region = region or ((0, reader.shape[0]), (0, reader.shape[1]))
    if any(not 0 <= first < past <= length for (first, past), length in zip(region, reader.shape, strict=True)):
        raise ValueError(f"region {region} must have a pixel and lie in the scene of {reader.shape}")
    return _blend(reader, forward, windows, region, classes, size, batch, torch.device(device))


def _blend(reader: Reader, forward: Forward, windows: Lattice, region: Region, classes: int, size: int, batch: int,
           device: torch.device) -> Rows:
    band = _Band(classes, windows, region, device)
    with closing(_read_ahead(reader, windows, region, batch, size)) as batches:
        for places, images_NBss in batches:
            scores_NKss = _scores(forward, torch.from_numpy(images_NBss).to(device), classes)
            for (i, j), scores_Kss in zip(places, scores_NKss, strict=True):
                if i > band.row:
                    yield from band.next_row()
                band.add(j, scores_Kss)
        yield from band.next_row()


def _read_ahead(reader: Reader, windows: Lattice, region: Region, batch: int, size: int
                ) -> Generator[tuple[list[tuple[int, int]], NDArray[Any]], None, None]:
    """Batches of lattice places with their images; the next is read in one thread while the caller has this one."""
    places = windows.touching(region)
    with ThreadPoolExecutor(1, thread_name_prefix="swath-predict") as pool:
        ahead: tuple[list[tuple[int, int]], Future[NDArray[Any]]] | None = None
        while group := list(islice(places, batch)):
            ground = [(int(windows.rows.starts[i]), int(windows.cols.starts[j]), windows.rows.side) for i, j in group]
            following = group, pool.submit(reader.read, ground, size)
            if ahead:
                yield ahead[0], ahead[1].result()
            ahead = following
        if ahead:
            yield ahead[0], ahead[1].result()


def _scores(forward: Forward, images_NBss: torch.Tensor, classes: int) -> torch.Tensor:
    with torch.no_grad():
        scores = forward(images_NBss)
    count, _, rows, cols = images_NBss.shape
    if scores.shape != (count, classes, rows, cols):
        raise ValueError(f"forward gave scores of {tuple(scores.shape)}, expected {(count, classes, rows, cols)}")
    return scores.float()


class _Band:
    """Sums over the region's columns: of one row of windows, and of all rows of windows so far.

    Weights along the columns are applied within a row of windows and those along the rows once to its sum. That is
    less work, and with two short sums in place of a long one float32 holds 1e-5 at any overlap.
    """

    def __init__(self, classes: int, windows: Lattice, region: Region, device: torch.device) -> None:
        self.windows, self.region = windows, region
        self.last = windows.rows.touching(*region[0])[-1]
        self.row = windows.rows.touching(*region[0])[0]  # being added; its first scene row is that of both buffers
        width = region[1][1] - region[1][0]
        self.row_KsW = torch.zeros((classes, windows.rows.side, width), device=device)
        self.sums_KsW = torch.zeros_like(self.row_KsW)

    def add(self, j: int, scores_Kss: torch.Tensor) -> None:
        """Add the scores of the window in column j of the row, brought to full resolution."""
        side, (left, right) = self.windows.cols.side, self.region[1]
        if scores_Kss.shape[1] != side:
            scores_Kss = torch.nn.functional.interpolate(scores_Kss[None], (side, side), mode="bilinear",
                                                         antialias=side < scores_Kss.shape[1])[0]
        col = int(self.windows.cols.starts[j])
        first, past = max(col, left), min(col + side, right)
        weights_s = torch.from_numpy(self.windows.cols.weights(j)).to(scores_Kss.device)
        self.row_KsW[:, :, first - left:past - left].addcmul_(
            scores_Kss[:, :, first - col:past - col], weights_s[first - col:past - col])

    def next_row(self) -> Iterator[tuple[int, torch.Tensor]]:
        """End a row of windows: yield the region's rows that no later one touches, and move down to the next."""
        axis, side = self.windows.rows, self.windows.rows.side
        weights_s = torch.from_numpy(axis.weights(self.row)).to(self.sums_KsW.device)
        self.sums_KsW.addcmul_(self.row_KsW, weights_s[:, None])
        self.row_KsW.zero_()

        top = int(axis.starts[self.row])
        below = top + side if self.row == self.last else int(axis.starts[self.row + 1])
        first, past = max(top, self.region[0][0]), min(below, self.region[0][1])
        if first < past:
            yield first, self.sums_KsW[:, first - top:past - top].clone()
        kept_KhW = self.sums_KsW[:, below - top:].clone()
        self.sums_KsW[:, :kept_KhW.shape[1]] = kept_KhW
        self.sums_KsW[:, kept_KhW.shape[1]:] = 0
        self.row += 1


def blend_scales(reader: Reader, forward: Forward, *, scales: Sequence[float], classes: int, size: int, overlap: float,
                 batch: int, region: Region | None = None, device: str | torch.device = "cpu") -> Rows:
    """The mean of `blend` over several scales, each of equal weight. Raises ValueError as `blend`, and for no scale."""
    if not scales:
        raise ValueError("scales must name one scale at least")
    return _mean([blend(reader, forward, classes=classes, size=size, scale=scale, overlap=overlap, batch=batch,
                        region=region, device=device) for scale in scales])


def _mean(streams: Sequence[Rows]) -> Rows:
    """The mean of streams over the same rows, as far as all of them have come: each holds one piece at most."""
    with ExitStack() as stack:
        for stream in streams:
            stack.enter_context(closing(stream))
        held = [next(stream) for stream in streams]
        while True:
            row, count = held[0][0], min(scores.shape[1] for _, scores in held)
            yield row, torch.stack([scores[:, :count] for _, scores in held]).mean(0)
            rest = [(row + count, scores[:, count:]) for _, scores in held]
            nexts = [piece if piece[1].shape[1] else next(stream, None)
                     for piece, stream in zip(rest, streams, strict=True)]
            held = [piece for piece in nexts if piece is not None]
            if not held:
                return


def predict_array(forward: Callable[[NDArray[Any]], NDArray[np.float32]], image_BHW: NDArray[Any], *, size: int = 256,
                  overlap: float = 0.5, classes: int, batch: int = 16) -> NDArray[np.float32]:
    """Scores of an image in memory: float32 (K, H, W), the same blend as for scenes.

    `forward` takes an (N, B, size, size) array of the image's dtype and gives float32 (N, K, size, size).
    """
    def tensors(images_NBss: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.asarray(forward(images_NBss.numpy()), np.float32))

    scores_KHW = np.empty((classes, *image_BHW.shape[1:]), np.float32)
    rows = blend(ArrayReader(image_BHW), tensors, classes=classes, size=size, scale=1, overlap=overlap, batch=batch)
    for row, scores_KhW in rows:
        scores_KHW[:, row:row + scores_KhW.shape[1]] = scores_KhW.numpy()
    return scores_KHW


def batch_size(size: int) -> int:
    """Windows to put through a network at once: a megapixel, 16 windows of 256 px (assumed, not measured). A function
    of the size alone, so that the same batches are formed on every machine."""
    return max(1, 2**20 // size**2)


def precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """The arithmetic of a network on a device: `auto` is bf16 on a GPU that has it, else fp32."""
    if wanted != "auto":
        return wanted
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def network_forward(net: torch.nn.Module, precision: Precision = "fp32") -> Forward:
    """Class probabilities (softmax) of a network that takes images_NSBHW (S = 1 here) and gives logits_NKHW.

    The forward raises ValueError while the network is in training mode: batch normalisation and dropout would make
    a score depend on its neighbours in the batch, or on chance.
    """
    def forward(images_NBss: torch.Tensor) -> torch.Tensor:
        if net.training:
            raise ValueError("the network is in training mode: call net.eval() before predicting with it")
        with torch.inference_mode(), torch.autocast(images_NBss.device.type, torch.bfloat16, precision == "bf16"):
            logits_NKss: torch.Tensor = net(images_NBss[:, None])
        return logits_NKss.float().softmax(1)

    return forward


def classes_of(rows: Iterable[tuple[int, torch.Tensor]]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The class of the highest score for every pixel: (row of the first, classes_hW).

    Raises DataError where a score is not finite, which would be an arbitrary class.
    """
    for row, scores_KhW in rows:
        if not bool(torch.isfinite(scores_KhW).all()):
            raise DataError(f"rows {row} to {row + scores_KhW.shape[1] - 1}: the network gave scores that are not "
                            "finite; look for such pixels in the scene, or predict in fp32")
        yield row, scores_KhW.argmax(0).to(torch.uint8).cpu().numpy()
