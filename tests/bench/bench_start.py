"""What the loader takes to start, in memory and beside a network, for bench_loader.py: each in a fresh process.

    python tests/bench/bench_start.py '{"task": "first", "uri": STORE}'      prints one line of JSON
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_loaders import BATCH, FOREVER, WORKERS, augment, plan_of
from bench_processes import run

if TYPE_CHECKING:
    import psutil

SCENES = 41
"""As LandCover.ai has."""
WARM, STEPS = 20, 200
"""Of training: those that do not count, and those that do."""
EPOCHS = 3


def measured(task: str, uri: str, log: Path) -> dict[str, float]:
    """The figures of a task, from a process of its own."""
    figures: dict[str, float] = json.loads(run(Path(sys.executable), "bench_start.py", {"task": task, "uri": uri}, log))
    return figures


def many_scenes(folder: Path, uri: str) -> str:
    """A store of SCENES scenes in as many groups: those of another under more names, their files linked."""
    many = folder / "many.zarr"
    if not many.exists():
        part = folder / ".many.part"
        shutil.rmtree(part, ignore_errors=True)
        names = sorted(path.name for path in Path(uri).iterdir() if path.is_dir())
        part.mkdir()
        shutil.copy(Path(uri, "zarr.json"), part)
        for index in range(SCENES):
            old, new = names[index % len(names)], f"many_{index}"
            shutil.copytree(Path(uri, old), part / new, copy_function=os.link)
            meta = part / new / "zarr.json"
            text = meta.read_text().replace(f'"{old}"', f'"{new}"')  # its name and its group
            meta.unlink()
            meta.write_text(text)
        part.rename(many)
    return str(many)


def first(uri: str) -> dict[str, float]:
    """Seconds of each step to the first batch, split included."""
    import numpy as np

    import patchstore
    from swath.config import Config, DataConfig, PatchesConfig
    from swath.loading.loader import Loader
    from swath.patches.planning import plan
    from swath.splits.division import divide

    augment(256)
    seconds, last = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[name], last = now - last, now

    config = Config(data=DataConfig(store=uri), patches=PatchesConfig(size=256))
    store = patchstore.open(uri)
    lap("open")
    labels = divide(store, config.split)
    lap("split")
    patches = plan(store, config, "train", labels=labels)
    lap("plan")
    loader = Loader(store=store, plan=patches, batch=BATCH, seed=0, rank=0, world_size=1, augment=augment(256),
                    readers=WORKERS)
    batches = loader.batches(0, FOREVER)
    image = next(batches).images_NSBHW
    lap("batch")
    assert np.asarray(image[-1]).any()
    batches.close()
    return seconds


def memory(uri: str) -> dict[str, float]:
    """MB of this process and of the largest of its readers: after their imports, and the most above that by epoch."""
    import psutil

    import patchstore
    from swath.loading.loader import Loader

    vary, me = augment(256), psutil.Process()
    store = patchstore.open(uri)
    plan = plan_of(store, 256)
    ask = "import psutil, swath.loading.reader; print(psutil.Process().memory_info().rss)"
    fresh = subprocess.run([sys.executable, "-c", ask], stdout=subprocess.PIPE, check=True)
    figures = {"rank, imports": me.memory_info().rss / 1e6, "reader, imports": int(fresh.stdout) / 1e6}
    loader = Loader(store=store, plan=plan, batch=BATCH, seed=0, rank=0, world_size=1, augment=vary, readers=WORKERS)
    each = len(plan) // BATCH
    batches = loader.batches(0, EPOCHS * each)
    next(batches)
    for epoch in range(EPOCHS):
        with _watched({"rank": [me], "reader": me.children()}) as peaks:
            for _ in range(each - (epoch == 0)):
                next(batches).images_NSBHW.max()  # as a step of training would touch it
        for who, peak in peaks.items():
            figures[f"{who}, epoch {epoch + 1}"] = peak - figures[f"{who}, imports"]
    return figures


@contextmanager
def _watched(groups: "Mapping[str, Sequence[psutil.Process]]") -> Iterator[dict[str, float]]:
    """The most MB that one process of each group has meanwhile, looked at every 20 ms; shared memory counts in each."""
    peaks, ended = dict.fromkeys(groups, 0.0), threading.Event()

    def look() -> None:
        for name, processes in groups.items():
            peaks[name] = max(peaks[name], *(process.memory_info().rss / 1e6 for process in processes))

    def watch() -> None:
        while not ended.wait(0.02):
            look()

    look()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def device(uri: str) -> dict[str, float]:
    """Training with the loader and on one batch that stays on the device; empty where there is no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        return {}
    import segmentation_models_pytorch as smp

    import patchstore
    from swath.loading.loader import Loader

    store = patchstore.open(uri)
    model = smp.Unet("resnet18", encoder_weights=None, classes=len(store.classes)).cuda().to(
        memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    loader = Loader(store=store, plan=plan_of(store, 256), batch=BATCH, seed=0, rank=0, world_size=1,
                    augment=augment(256), readers=max(1, (os.cpu_count() or 1) - 1), device=torch.device("cuda"))

    def step(images_NBHW: Any, labels_NHW: Any) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            pixels_NBHW = images_NBHW.float().div(255).contiguous(memory_format=torch.channels_last)
            scores_NKHW = model(pixels_NBHW)
        torch.nn.functional.cross_entropy(scores_NKHW.float(), labels_NHW.long(), ignore_index=store.ignore).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def train(batches: Iterator[tuple[Any, Any]], idle: bool = False) -> tuple[float, float]:
        """Patches a second, and the share of the time that passed before a batch came; with `idle` the device has
        nothing else to do by then, so that it is the device's own waiting."""
        waited = 0.0
        for index in range(WARM + STEPS):
            if idle or index == WARM:
                torch.cuda.synchronize()
            asked = time.perf_counter()
            if index == WARM:
                began, waited = asked, 0.0
            batch = next(batches)
            waited += time.perf_counter() - asked
            step(*batch)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        return STEPS * BATCH / seconds, waited / seconds

    loaded = ((batch.images_NSBHW[:, 0], batch.labels_NHW) for batch in loader.batches(0, FOREVER))
    held = itertools.repeat(tuple(tensor.clone() for tensor in next(loaded)))
    train(held)
    rates = {"held patches/s": train(held)[0], "patches/s": train(loaded)[0], "waiting": train(loaded, idle=True)[1]}
    loaded.close()
    return rates


TASKS: Mapping[str, Callable[[str], dict[str, float]]] = {"first": first, "memory": memory, "device": device}


def main() -> None:
    """Do a task; what libraries print goes to standard error."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    argument = json.loads(sys.argv[1])
    print(json.dumps(TASKS[argument["task"]](argument["uri"])), file=answer, flush=True)


if __name__ == "__main__":
    main()
