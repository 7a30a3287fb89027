"""The order of a run's batches (`swath.patches.ordering`)."""

from swath.patches.ordering import batch as batch
