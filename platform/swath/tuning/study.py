"""A search: trials of many configurations, the best of which is trained again. What `jobs/search.py` does."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from swath import figures, say
from swath.config import Config
from swath.distributed import connection, runners
from swath.errors import ConfigError, SwathError, TrainingError
from swath.experiments import experiment
from swath.experiments.prepare import prepare_parts, with_absolute_paths
from swath.names import BEST_TAG, FINGERPRINT_TAG, ROLE_TAG, SEARCH_TAG, STORE_TAG, VAL_MIOU, WINNER_REASON_TAG
from swath.tracking import mlflow_store, runs
from swath.training.prepared import Prepared
from swath.training.setup import length
from swath.tuning import ray_tune, space, tables, trials
from swath.tuning.trials import Trial

_EMA_SHARE = 0.03
"""Half-life of the moving average in trials, as a share of the run that the winner gets, where the recipe has none: a
few hundredths of a run are what a decay of the learning rate smooths over (assumed, not measured)."""

_NOTE, _NOTED = "mlflow.note.content", 20
"""The tag that MLflow shows as a run's description, and how many trials stand in it."""


@dataclass(frozen=True, kw_only=True)
class Best:
    """The model of a search with the highest validation score."""

    run_id: str
    config: Config
    val_miou: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of a search."""

    run_id: str
    """Of its summary in the tracking store; its trials are tagged with it."""
    location: mlflow_store.Location
    trials: list[Trial]
    best: Best


def run(config: Config, workdir: Path, heard: Callable[[Trial], None] = tables.trial_line) -> Found:
    """Search `config.search.space` around a configuration, then train the best point again with the configuration's own
    schedule and length.

    Raises ConfigError, DataError or a PatchstoreError before anything is started where the configuration, a dimension
    of the space, the store or the tracking store cannot serve, and TrainingError when no trial finishes.
    """
    workdir = workdir.resolve()
    config, store = with_absolute_paths(config)
    dimensions = space.read(config.search.space)
    prepared = prepare_parts(config, store)
    for possible in dimensions.configurations(config):
        prepare_parts(possible, store, prepared.split)
    location = mlflow_store.prepare(workdir, config.track.uri)
    config = runs.with_folders(config, workdir, location.uri)
    own = length(config, prepared.plan)
    config = replace(config, train=replace(config.train, megapixels=own))  # a point's own epochs may be shorter
    base = for_trials(config)
    # Connected around the record: a search that is told to end has seconds, and leaving Ray can take as long.
    with (connection.connected(config.cluster.address, cpus=connection.own_cores(config.cluster)),
          _summary(replace(prepared, config=config), location) as summary):
        base = ray_tune.with_resources(base)
        book = ray_tune.TrialBook(ray_tune.Search(base=base, space=dimensions, workdir=workdir, location=location,
                                                 run_id=summary.run_id), heard)
        try:
            ray_tune.run(book)
        finally:
            tried = list(book.trials.values())
            _report(summary, tried)
        winner = trials.best(tried)
        if winner is None:
            raise TrainingError(f"of {len(tried)} trials none finished ({trials.states(tried)}); the first: "
                                f"{tried[0].reason}")
        best = _train_again(config, base, winner, summary, workdir)
        summary.text(best.config.to_json(), "best.json")
        summary.tags({BEST_TAG: best.run_id, _NOTE: f"Best: run {best.run_id}, val/miou {best.val_miou:.4f}\n\n"
                      + trials.to_markdown(trials.rows(tried)[:_NOTED])})
        summary.log({"search/best_val_miou": best.val_miou}, 0.0)
    return Found(run_id=summary.run_id, location=location, trials=tried, best=best)


def for_trials(config: Config) -> Config:
    """What all trials of a search around a configuration, whose length is in megapixels, have in common.

    Their learning rate is constant after the warm-up, and a moving average of the weights stands in for its decay: what
    a trial is worth at a rung does not depend on where it would have ended (Hägele et al. 2024, Scaling Laws and
    Compute-Optimal Training Beyond Fixed Training Durations). So warm-up and average are as long as in the run that the
    winner gets, however long the trials are. Raises ConfigError for trials that would end within the warm-up.
    """
    own = config.train.megapixels
    longest = config.search.megapixels or own
    if longest <= (warmup := config.train.warmup * own):
        raise ConfigError(f"search.megapixels must be above the warm-up ({warmup:g} Mpx: train.warmup x the run's "
                          f"length), got {longest:g}")
    return replace(config, train=replace(config.train, megapixels=longest, schedule="constant", warmup=warmup / longest,
                                         ema=config.train.ema or _EMA_SHARE * own))


@contextmanager
def _summary(prepared: Prepared, location: mlflow_store.Location) -> Iterator[mlflow_store.Tracker]:
    """The search's own record, which ends with what really happened in the block."""
    base, store = prepared.config, prepared.store
    summary = mlflow_store.MlflowTracker.start(
        location.uri, experiment=base.track.experiment, name=base.track.name or "search",
        artifact_location=location.artifact_location,
        params={name: value for name, value in base.flat().items() if name.startswith(("search.", "data.store"))},
        tags={ROLE_TAG: "search", **prepared.protocol.tags(), STORE_TAG: store.uri,
              FINGERPRINT_TAG: store.fingerprint})
    with experiment.ended_truly(summary):
        summary.tags({SEARCH_TAG: summary.run_id})
        summary.text(base.to_json(), "config.json")
        yield summary


def _train_again(config: Config, base: Config, winner: Trial, summary: mlflow_store.Tracker, workdir: Path) -> Best:
    """Train the winner's point for as long, and with the schedule, as the configuration says; the better of the two."""
    before = Best(run_id=winner.run_id, config=space.place(base, winner.point), val_miou=winner.last(VAL_MIOU) or 0.0)
    say.print_line(f"{winner.run_id[:8]} {winner.name} is the best trial; its configuration is trained again")
    again = space.place(config, winner.point)
    there = bool(connection.elsewhere(config.cluster.address))  # where the trials were: this process may have no GPU
    try:
        outcome = runners.train(again, workdir, on_ray=there,
                                tags={SEARCH_TAG: summary.run_id, ROLE_TAG: "winner"})
    except SwathError as error:
        say.print_line(f"it failed, so the trial itself is the best: {error}")
        summary.tags({WINNER_REASON_TAG: experiment.reason(error)})
        return before
    after = Best(run_id=outcome.run_id, config=again, val_miou=outcome.score.miou)
    return max(before, after, key=lambda best: best.val_miou)


def _report(summary: mlflow_store.Tracker, tried: list[Trial]) -> None:
    """Record what the trials came to: their number by state, and a table of them, as CSV and on the run's page."""
    table = trials.rows(tried)
    summary.log({f"search/{state.lower()}": float(number) for state, number in trials.states(tried).items()}, 0.0)
    summary.text(trials.to_csv(table), "trials.csv")
    summary.tags({_NOTE: trials.to_markdown(table[:_NOTED])})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "search.png"
        figures.search([(f"{t.name} ({t.state.lower()})", t.history) for t in trials.ranked(tried)], path)
        summary.artifact(path)
