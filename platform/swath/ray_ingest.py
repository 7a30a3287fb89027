"""Ingest scenes in parallel, as Ray tasks, with a progress bar."""

import sys
from collections.abc import Iterator, Sequence

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from patchstore import SceneReport
from swath.ingest import Task
from swath.ray_cluster import connected


def spread(tasks: Sequence[Task], address: str = "") -> Iterator[SceneReport | str]:
    """Run tasks on a cluster, one core each; yields what each came to, as they finish."""
    bar = Progress(TextColumn("ingest"), BarColumn(), MofNCompleteColumn(), TextColumn("scenes"), TimeRemainingColumn(),
                   console=Console(file=sys.stderr))
    with connected(address), bar:
        running = [_run.remote(task) for task in tasks]
        shown = bar.add_task("ingest", total=len(tasks))
        while running:
            finished, running = ray.wait(running)
            for result in ray.get(finished):
                bar.advance(shown)
                yield result


@ray.remote(num_cpus=1)
def _run(task: Task) -> SceneReport | str:
    return task.run()
