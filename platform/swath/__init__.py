"""swath: patches from a store -> model -> score of whole scenes -> map."""

import os

# Nothing phones home unless a user says so. The libraries read these when they are first imported, whichever module
# of swath is imported first, so this is the one place where importing has an effect.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
