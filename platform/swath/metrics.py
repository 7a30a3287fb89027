"""Counts of labels by predictions (`swath.scoring.metrics`)."""

from swath.scoring.metrics import confusion as confusion
