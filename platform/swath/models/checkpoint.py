"""Checkpoints: folders that hold a run's whole state, and all that is needed to apply its model elsewhere.

    state.pt        `RunState` as tensors and plain values: weights, optimiser, place in the order, history
    config.json     the configuration
    card.json       what the model expects and gives: bands, dtype, classes, and the store that it was trained on
    manifest.json   size and SHA-256 of the others, written last: without it, or not matching, nothing is loaded
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from patchstore import Store
from swath import config as configuration
from swath import extensions
from swath.config import Config
from swath.errors import CheckpointError, ConfigError
from swath.models import network
from swath.models.checkpoint_files import beginning as beginning
from swath.models.checkpoint_files import newest as newest
from swath.models.checkpoint_files import seal, why_incomplete
from swath.models.run_state import RunState


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a model expects and gives."""

    store: str
    """URI of the store that it was trained on."""
    fingerprint: str
    """That store's content."""
    bands: int
    dtype: str
    classes: tuple[str, ...]
    """Names by index."""
    colours: tuple[tuple[int, int, int], ...]
    ignore: int

    @classmethod
    def of(cls, store: Store) -> "ModelCard":
        """The card of a model trained on a store."""
        return cls(store=store.uri, fingerprint=store.fingerprint, bands=store.bands, dtype=str(store.dtype),
                   classes=tuple(c.name for c in store.classes), colours=tuple(c.colour for c in store.classes),
                   ignore=store.ignore)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint as it was read."""

    config: Config
    card: ModelCard
    state: RunState

    def network(self, device: torch.device) -> network.Net:
        """The trained network, ready to predict on a device."""
        bare = replace(self.config.model, weights="none")  # the checkpoint has the weights
        flat_B = np.zeros(self.card.bands), np.ones(self.card.bands)
        traits = network.DataTraits(bands=self.card.bands, classes=len(self.card.classes), dtype=self.card.dtype,
                                    mean_B=flat_B[0], std_B=flat_B[1])
        net = network.build(bare, traits, combine=self.config.patches.combine, scales=self.config.patches.scales)
        net.load_state_dict(self.state.best)
        net = net.to(device).eval()
        if device.type == "cuda" and self.config.train.channels_last:  # as it was trained
            net = net.to(memory_format=torch.channels_last)
        return net


def save(folder: Path, state: RunState, config: Config, card: ModelCard) -> None:
    """Write a checkpoint into an empty folder."""
    torch.save(state.saved(), folder / "state.pt")
    (folder / "config.json").write_text(config.to_json())
    (folder / "card.json").write_text(json.dumps(asdict(card), indent=2))
    seal(folder)


def load(folder: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint, its tensors onto a device.

    Raises CheckpointError when it is missing, incomplete, damaged or of a newer format, or when its network cannot be
    imported.
    """
    if said := why_incomplete(folder):
        raise CheckpointError(f"{folder}: not a whole checkpoint ({said}); give a run's id or another folder")
    try:
        card = TypeAdapter(ModelCard).validate_json((folder / "card.json").read_text())
    except ValidationError as error:
        raise CheckpointError(f"{folder / 'card.json'}: {error.errors()[0]['msg']}; "
                              "was it written by another version?") from None
    config = configuration.load(folder / "config.json")
    if extensions.is_path(config.model.arch):
        try:
            extensions.resolve(config.model.arch, "model.arch")
        except ConfigError as error:
            raise CheckpointError(f"{folder}: its network is not one of swath's: {error}") from error
    saved = torch.load(folder / "state.pt", map_location=device, weights_only=True)
    return Checkpoint(config=config, card=card, state=RunState.read(saved, str(folder / "state.pt")))
