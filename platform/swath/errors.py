"""Errors that a user can correct. All other exceptions are bugs.

    SwathError                 one clear line: what is wrong, where, and what to do; a job ends with exit code 2
    ├── ConfigError            a field, a recipe or a configuration file
    ├── DataError              a split, a plan or a scene that does not fit the configuration
    ├── CheckpointError        a checkpoint that is missing, incomplete or of another model
    ├── LoaderError            a reader process that has ended or hangs
    └── TrainingError          a run that cannot continue (loss not finite, workers lost too often)
        └── DeviceMemoryError  out of memory on the device of one of several workers

The store has its own errors (`patchstore.errors`). Any other exception is a bug and shows its traceback.
"""


class SwathError(Exception):
    """Base of the errors that a user can correct."""


class ConfigError(SwathError, ValueError):
    """A field, a recipe or a configuration file is wrong. It is a ValueError, so that tyro reports it like its own
    errors."""


class DataError(SwathError):
    """A split, a plan or a scene does not fit the configuration."""


class CheckpointError(SwathError):
    """A checkpoint is missing, incomplete, or of another model."""


class LoaderError(SwathError):
    """A process that reads patches has ended or hangs."""


class TrainingError(SwathError):
    """A run cannot continue."""


class DeviceMemoryError(TrainingError):
    """The device of one of several workers has not enough memory for its micro-batch."""

    def __init__(self, message: str, smaller: int) -> None:
        """smaller: the micro-batch (patches at once) with which the workers can continue from their checkpoint."""
        super().__init__(message, smaller)
        self.smaller = smaller

    def __str__(self) -> str:
        return str(self.args[0])
