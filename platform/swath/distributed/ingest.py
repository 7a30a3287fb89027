"""Ingest on a Ray cluster: the steps of many scenes at once, those of one scene side by side where they may be."""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from patchstore import PatchstoreError, SceneReport, SceneTask, Step, Steps
from swath.distributed.connection import connected, nodes


@dataclass(frozen=True)
class _Refused:
    """Why a step could not be done: an error that a user can mend, carried as a value."""

    reason: str


@dataclass(eq=False)
class _Scene:
    """A scene whose steps are under way."""

    name: str
    steps: Steps
    results: list[Any] = field(default_factory=list)
    waiting: int = 0
    """Steps of the present stage that have not ended."""


def spread(tasks: Sequence[SceneTask], address: str = "") -> Iterator[SceneReport | str]:
    """Run the steps of tasks on a cluster, one core each; yields what each scene came to, as they end."""
    bar = Progress(TextColumn("ingest"), BarColumn(), MofNCompleteColumn(), TextColumn("scenes"), TimeRemainingColumn(),
                   console=Console(file=sys.stderr))
    with connected(address), bar:
        shown = bar.add_task("ingest", total=len(tasks))
        for result in _interleaved(tasks):
            bar.advance(shown)
            yield result


def _interleaved(tasks: Sequence[SceneTask]) -> Iterator[SceneReport | str]:
    """Keep two steps under way for each core there is; scenes that are begun come before those that are not."""
    ahead = deque(tasks)
    running: dict[ray.ObjectRef[Any], tuple[_Scene, int]] = {}
    while ahead or running:
        while ahead and len(running) < 2 * max(1, sum(cpus for cpus, _ in nodes())):
            task = ahead.popleft()
            scene = _Scene(task.source.name, task.steps())
            running |= _submit(scene, next(scene.steps))
        finished, _ = ray.wait(list(running))
        for reference in finished:
            scene, place = running.pop(reference)
            scene.results[place] = _result(reference, scene)
            scene.waiting -= 1
            while scene.waiting == 0:  # a stage may have no steps
                refused = [result for result in scene.results if isinstance(result, _Refused)]
                if refused:
                    yield refused[0].reason
                    break
                try:
                    ready = scene.steps.send(scene.results)
                except StopIteration as end:
                    yield end.value
                    break
                except PatchstoreError as error:
                    yield str(error)
                    break
                running |= _submit(scene, ready)


def _result(reference: "ray.ObjectRef[Any]", scene: _Scene) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError:  # of the step's own making: a bug
        raise
    except RayError as error:  # its process was lost, and those that took its place
        return _Refused(f"scene {scene.name}: a step's process was lost ({str(error).strip().splitlines()[0]}); if "
                        "memory ran out, use fewer cores at once, and ingest again")


def _submit(scene: _Scene, stage: Sequence[Step]) -> "dict[ray.ObjectRef[Any], tuple[_Scene, int]]":
    scene.results, scene.waiting = [None] * len(stage), len(stage)
    return {_run.remote(step): (scene, place) for place, step in enumerate(stage)}


@ray.remote(num_cpus=1)
def _run(step: Step) -> Any:
    try:
        return step()
    except PatchstoreError as error:
        return _Refused(str(error))
