"""The training loop and its parts: losses, schedules, micro-batches, state, signals. No Ray, no MLflow."""
