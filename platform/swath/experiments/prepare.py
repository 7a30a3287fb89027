"""Before a run or a search starts: open the store, make paths absolute, and refuse what cannot work."""

from dataclasses import replace
from pathlib import Path

import patchstore
from patchstore import Store
from swath.config import Config
from swath.errors import ConfigError
from swath.loading.augment import Augment
from swath.models import network
from swath.patches import planning
from swath.scoring import counting
from swath.splits.division import Split
from swath.training import losses
from swath.training.prepared import Prepared
from swath.training.setup import micro_batches


def open_store(config: Config) -> Store:
    """The store of a configuration. Raises ConfigError when none is named, and what patchstore.open raises."""
    if not config.data.store:
        raise ConfigError("data.store: no store is named; give --data.store URI (jobs/ingest.py makes one)")
    return patchstore.open(config.data.store, merge=config.data.merge)


def with_absolute_paths(config: Config) -> tuple[Config, Store]:
    """The configuration with absolute paths, and its store: workers, and readers of the record, have other working
    directories. Raises what `open_store` does."""
    store, weights = open_store(config), config.model.weights
    if Path(weights).is_file():
        weights = str(Path(weights).resolve())
    config = replace(config, data=replace(config.data, store=store.uri), model=replace(config.model, weights=weights))
    return config, store


def prepare(config: Config, store: Store) -> Prepared:
    """Prepare a run and check all of it, the network included, which is built for that.

    Raises ConfigError, DataError or CheckpointError for the first thing that is wrong.
    """
    found = prepare_parts(config, store)
    found.costs  # noqa: B018 - builds the network: what is wrong with it is known before a record begins
    return found


def prepare_parts(config: Config, store: Store, split: Split | None = None) -> Prepared:
    """Prepare a run and check all of it that can be checked without building its network; `split` is given where it is
    known already. Raises ConfigError or DataError for the first thing that is wrong."""
    network.check(config.model, config.patches.size)
    found = Prepared.of(config, store, split=split)
    for scene, _ in found.split.scenes("test"):  # no patches are needed there, but it is to be scored
        planning.factors(config.patches, store.scenes[scene].pixel_m2, f"{store.uri}: scene {scene}")
    micro_batches(config, config.cluster.workers)
    losses.Loss(config.loss, len(store.classes), store.ignore)
    Augment(config.augment, size=config.patches.size, bands=store.bands, dtype=store.dtype,
            scales=config.patches.scales[:config.patches.scales_per_sample])
    counting.check_without(store, config)
    return found
