"""The training loop (`swath.training.loop`)."""

from swath.training.loop import fit as fit
