"""Checkpoints: folders that hold a run's whole state, and all that is needed to apply its model elsewhere.

    state.pt        tensors and plain values: weights, optimiser, place in the order, history (`weights_only` loads it)
    config.json     the configuration
    card.json       what the model expects and gives: bands, dtype, classes, and the store that it was trained on
    manifest.json   size and SHA-256 of the others, written last: without it, or not matching, nothing is loaded
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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
from swath.models.checkpoint_files import damage, seal
from swath.models.checkpoint_files import newest as newest


@dataclass(frozen=True, kw_only=True)
class Card:
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
    def of(cls, store: Store) -> "Card":
        """The card of a model trained on a store."""
        return cls(store=store.uri, fingerprint=store.fingerprint, bands=store.bands, dtype=str(store.dtype),
                   classes=tuple(c.name for c in store.classes), colours=tuple(c.colour for c in store.classes),
                   ignore=store.ignore)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint as it was read."""

    config: Config
    card: Card
    state: dict[str, Any]

    def network(self, device: torch.device) -> network.Net:
        """The trained network, ready to predict on a device."""
        bare = replace(self.config.model, weights="none")  # the checkpoint has the weights
        flat_B = np.zeros(self.card.bands), np.ones(self.card.bands)
        traits = network.DataTraits(bands=self.card.bands, classes=len(self.card.classes), dtype=self.card.dtype,
                                    mean_B=flat_B[0], std_B=flat_B[1])
        net = network.build(bare, traits, combine=self.config.patches.combine, scales=self.config.patches.scales)
        net.load_state_dict(self.state.get("average") or self.state["net"])
        net = net.to(device).eval()
        return net.to(memory_format=torch.channels_last) if device.type == "cuda" else net  # as it was trained


def save(folder: Path, state: dict[str, Any], config: Config, card: Card) -> None:
    """Write a checkpoint into an empty folder."""
    torch.save(state, folder / "state.pt")
    (folder / "config.json").write_text(config.to_json())
    (folder / "card.json").write_text(json.dumps(asdict(card), indent=2))
    seal(folder)


def load(folder: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint, its tensors onto a device.

    Raises CheckpointError when it is missing, incomplete or damaged, or when its network cannot be imported.
    """
    if said := damage(folder):
        raise CheckpointError(f"{folder}: not a whole checkpoint ({said}); give a run's id or another folder")
    try:
        card = TypeAdapter(Card).validate_json((folder / "card.json").read_text())
    except ValidationError as error:
        raise CheckpointError(f"{folder / 'card.json'}: {error.errors()[0]['msg']}; "
                              "was it written by another version?") from None
    config = configuration.load(folder / "config.json")
    if extensions.is_path(config.model.arch):
        try:
            extensions.resolve(config.model.arch, "model.arch")
        except ConfigError as error:
            raise CheckpointError(f"{folder}: its network is not one of swath's: {error}") from error
    state = torch.load(folder / "state.pt", map_location=device, weights_only=True)
    return Checkpoint(config=config, card=card, state=state)
