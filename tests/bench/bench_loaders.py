"""Loaders in a process each, for bench_loader.py: ours, and the usual ones, each over a torch DataLoader.

    python tests/bench/bench_loaders.py JSON      a Spec; answers each line of standard input with one line of JSON

The process says `{"most": …}` when its loader is ready: how many batches it may be asked for at once. `next N` leaves
out what it has loaded ahead, or begins the next epoch where fewer than N are left of one; `take N` times N batches. So
what is timed is never an epoch's beginning or end: no way is charged for starting one.

A way imports what it needs and no more: MosaicML Streaming wants another numpy than swath and runs in an environment
of its own. All give batches of uint8, images (N, 3, size, size) and labels (N, size, size), and vary their patches by
the same code, swath.augment.
"""

import fcntl
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from patchstore import Store
    from swath.patches.planning import PatchPlan

Array = NDArray[Any]
BATCH = 32
WORKERS = 2
"""Of every DataLoader."""
READY = 2 * WORKERS
"""Batches that a DataLoader loads ahead."""
SKIPPED = 2 * READY
"""Batches that are left out before those that are timed."""
IN_MEMORY = 128
"""Patches of the way `memory`."""
WARM = 64
"""Batches after which our lanes are in the middle of their walks: all begin at once, with nothing in the cache."""
FOREVER = 1 << 30
"""Batches, for a loader whose epochs follow one another without a gap."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One way to load patches."""

    way: Literal["ours", "memory", "dataloader", "png", "torchgeo", "litdata", "mosaic"]
    """Whose loader; `memory` is ours with its reads replaced by copies out of an array, `dataloader` torch's over our
    store, a batch read at once."""
    source: str
    """Store, folder of tiled GeoTIFFs (torchgeo), or folder of exported patches."""
    size: int
    """Side of a patch."""
    stride: int = 0
    """Distance of neighbouring patches (ours); 0: as the size."""
    vary: Literal["none", "flips", "library", "aerial"] = "flips"
    """Augmentation: a pipeline of swath.augment, or `library`, flips by albumentations (ours alone)."""
    readers: int = WORKERS
    """Our reader processes."""
    cores: int = 0
    """Processor cores that the process may use; 0: all."""


class Batches:
    """Batches of a source, one epoch after another."""

    def __init__(self, epoch: Iterable[Any], length: int, arrays: Callable[[Any], tuple[Any, Any]], warm: int = 0
                 ) -> None:
        """`epoch` gives an epoch's `length` batches each time it is iterated; `arrays` a batch's images and labels. The
        first `warm` batches of all are left out."""
        self.most = length - SKIPPED - READY
        if self.most < 1:
            raise SystemExit("too few patches for an epoch of which the middle can be timed; take larger scenes")
        self._epoch, self._length, self._arrays = epoch, length, arrays
        self._running: Iterator[Any] = iter(())
        self._left, self._warm = 0, warm

    def begin(self, count: int) -> None:
        """Get to where the next `count` batches are neither ready nor an epoch's last."""
        if self._left < SKIPPED + count + READY:
            for _ in self._running:
                pass
            self._running, self._left = iter(self._epoch), self._length
        self.skip(SKIPPED + self._warm)
        self._warm = 0

    def skip(self, count: int) -> None:
        """Take batches and look at none."""
        self._left -= count
        if sum(1 for _ in islice(self._running, count)) < count:
            raise SystemExit(f"an epoch had fewer than the {self._length} batches that its loader has said")

    def take(self, count: int) -> None:
        """Take batches and look at the last."""
        self.skip(count - 1)
        self._left -= 1
        images, labels = self._arrays(next(self._running))
        found = (tuple(images.shape), str(images.dtype), tuple(labels.shape), str(labels.dtype))
        side = images.shape[-1]
        if found != ((BATCH, 3, side, side), "torch.uint8", (BATCH, side, side), "torch.uint8"):
            raise SystemExit(f"a batch of {found}")


def ours(spec: Spec) -> Batches:
    """swath.loader over a store, all of whose scenes are for training."""
    import patchstore
    from swath.loading.loader import Loader

    store = patchstore.open(spec.source) if spec.way == "ours" else from_memory(spec.source, spec.size)
    plan = plan_of(store, spec.size, spec.stride)
    loader = Loader(store=store, plan=plan, batch=BATCH, seed=0, rank=0, world_size=1,
                    augment=augment(spec.size, spec.vary), readers=spec.readers)
    return Batches(loader.batches(0, FOREVER), FOREVER, lambda batch: (batch.images_NSBHW[:, 0], batch.labels_NHW),
                   warm=WARM)


class StoreBatches:
    """A plan's batches in our order, for a DataLoader: each worker opens the store for itself."""

    def __init__(self, spec: Spec) -> None:
        import patchstore

        self._spec = spec
        self._plan = plan_of(patchstore.open(spec.source), spec.size, spec.stride)
        self._augment = augment(spec.size, spec.vary)
        self._store: Store | None = None

    def __len__(self) -> int:
        return len(self._plan) // BATCH

    def __getitem__(self, index: int) -> dict[str, Any]:
        import torch

        import patchstore
        from swath.patches import ordering

        if self._store is None:
            self._store = patchstore.open(self._spec.source)
        windows = self._plan.windows(ordering.batch(self._plan, 0, 0, index, BATCH))
        images_NBHW, labels_NHW = self._store.read(windows, self._spec.size)
        self._augment.vary(images_NBHW, labels_NHW, range(index * BATCH, (index + 1) * BATCH))
        return {"image": torch.from_numpy(images_NBHW), "mask": torch.from_numpy(labels_NHW)}


def over_store(spec: Spec) -> Batches:
    """torch's DataLoader over our store; its workers are spawned, as TensorStore does not survive a fork."""
    from torch.utils.data import DataLoader

    batches = StoreBatches(spec)
    loader = DataLoader(batches, batch_size=None, num_workers=WORKERS, persistent_workers=True,  # type: ignore[arg-type]
                        multiprocessing_context="spawn")
    return Batches(loader, len(batches), lambda batch: (batch["image"], batch["mask"]))


def plan_of(store: "Store", size: int, stride: int = 0) -> "PatchPlan":
    """The patches of all scenes."""
    from dataclasses import replace

    from swath.config import Config, DataConfig, PatchesConfig, SplitConfig
    from swath.patches.planning import plan
    from swath.splits.division import SPLITS, divide

    split = divide(store, SplitConfig())
    train = {name: np.full_like(labels, SPLITS.index("train")) for name, labels in split.labels.items()}
    config = Config(data=DataConfig(store=store.uri), patches=PatchesConfig(size=size, stride=stride or size))
    return plan(store, config, "train", labels=replace(split, labels=train))


def from_memory(uri: str, size: int) -> "Store":
    """A store whose reads are copies of patches that it has: of more than a processor's cache holds."""
    import patchstore
    from bench_parts import MemoryStore

    store = patchstore.open(uri)
    plan = plan_of(store, size)
    return MemoryStore(uri, plan.windows(np.arange(IN_MEMORY) % len(plan)), size)


def augment(size: int, vary: str = "flips") -> Any:
    """A named augmentation for patches of three bands; `flips` is the eight symmetries of the square."""
    from swath.config import AugmentConfig
    from swath.loading.augment import Augment

    if vary == "library":
        from bench_parts import LibraryFlips

        return LibraryFlips()
    return Augment(AugmentConfig(pipeline=vary), size=size, bands=3, dtype=np.dtype(np.uint8))  # type: ignore[arg-type]


class Vary:
    """A patch as a DataLoader's worker gives it: varied, in tensors."""

    def __init__(self, spec: Spec) -> None:
        self._augment = augment(spec.size, spec.vary)

    def __call__(self, patch: Mapping[str, Array]) -> dict[str, Any]:
        import torch

        image_BHW, mask_HW = self._augment(patch["image"], patch["mask"], random.getrandbits(32))  # a copy
        return {"image": torch.from_numpy(image_BHW), "mask": torch.from_numpy(mask_HW)}


def png(spec: Spec) -> Batches:
    """A folder of PNG patches, by OpenCV."""
    import cv2
    from torch.utils.data import Dataset

    paths = sorted(Path(spec.source).glob("*_image.png"))
    vary = Vary(spec)

    class Folder(Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> dict[str, Any]:
            image_HWB = cv2.imread(str(paths[index]), cv2.IMREAD_COLOR)
            mask_HW = cv2.imread(str(paths[index]).replace("_image", "_mask"), cv2.IMREAD_UNCHANGED)
            return vary({"image": np.stack(cv2.split(image_HWB)[::-1]), "mask": mask_HW})

    return dataloader(Folder(), shuffle=True)


def torchgeo(spec: Spec) -> Batches:
    """TorchGeo's sampler over tiled GeoTIFFs, brought to uint8 before the workers hand its tensors over."""
    from torchgeo.datasets import IntersectionDataset, RasterDataset, stack_samples
    from torchgeo.samplers import RandomGeoSampler

    class Images(RasterDataset):
        is_image = True

    class Masks(RasterDataset):
        is_image = False

    vary = Vary(spec)
    images, masks = (sorted(map(str, Path(spec.source).glob(f"*/{part}.tif"))) for part in ("image", "mask"))
    dataset = IntersectionDataset(
        Images(images), Masks(masks),
        transforms=lambda sample: vary({name: sample[name].numpy().astype(np.uint8) for name in ("image", "mask")}))
    sampler = RandomGeoSampler(dataset, size=spec.size, length=1024 * BATCH)
    return dataloader(dataset, sampler=sampler, collate_fn=stack_samples)


def litdata(spec: Spec) -> Batches:
    """LitData's own loader over its own chunks."""
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(spec.source, shuffle=True, drop_last=True, transform=Vary(spec))
    return dataloader(dataset, StreamingDataLoader)


def mosaic(spec: Spec) -> Batches:
    """MosaicML Streaming over its own shards."""
    from streaming import StreamingDataset

    vary = Vary(spec)

    class Patches(StreamingDataset):
        def __getitem__(self, at: int) -> dict[str, Any]:
            return vary(super().__getitem__(at))

    with open(Path(spec.source).parent / "mosaic.lock", "w") as lock:  # two that start at once choose the same name
        fcntl.flock(lock, fcntl.LOCK_EX)
        patches = Patches(local=spec.source, shuffle=True, batch_size=BATCH)
    return dataloader(patches)


def dataloader(dataset: "Dataset[dict[str, Any]]", kind: Callable[..., Iterable[Any]] | None = None, **settings: Any
               ) -> Batches:
    """A torch DataLoader (or one made from it) whose workers stay."""
    from torch.utils.data import DataLoader

    loader = (kind or DataLoader)(dataset, batch_size=BATCH, num_workers=WORKERS, persistent_workers=True,
                                  drop_last=True, **settings)
    length = len(settings.get("sampler", dataset)) // BATCH
    return Batches(loader, length, lambda batch: (batch["image"], batch["mask"]))


WAYS: Mapping[str, Callable[[Spec], Batches]] = {
    "ours": ours, "memory": ours, "dataloader": over_store, "png": png, "torchgeo": torchgeo, "litdata": litdata,
    "mosaic": mosaic}


def cpu_s() -> float:
    """Processor time of this process and those that it started."""
    import psutil

    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def serve(spec: Spec, answer: Callable[[dict[str, float]], None]) -> None:
    """Do what standard input says."""
    batches = WAYS[spec.way](spec)
    answer({"most": batches.most})
    for line in sys.stdin:
        command, count = line.split()
        if command == "next":
            batches.begin(int(count))
            answer({})
        else:
            began, used = time.perf_counter(), cpu_s()
            batches.take(int(count))
            answer({"seconds": time.perf_counter() - began, "cpu_s": cpu_s() - used})


def main() -> None:
    """Serve; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    spec = Spec(**json.loads(sys.argv[1]))
    if spec.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:spec.cores])  # before a library counts them
    serve(spec, lambda figures: print(json.dumps(figures), file=answers, flush=True))


if __name__ == "__main__":
    main()
