"""What can go wrong because of what a user gave, as opposed to a bug.

    SwathError                 one clear line: what was wrong, where, and what to do; a job ends with exit code 2
    ├── ConfigError            a field, a recipe or a configuration file
    ├── DataError              a split, a plan or a scene that cannot serve the configuration
    ├── CheckpointError        a checkpoint that is absent, incomplete or of another model
    ├── LoaderError            a reader of patches that is gone or hangs
    └── TrainingError          a run that cannot go on (a loss that is not finite, workers lost too often)
        └── DeviceMemoryError  a device that does not hold what one of several workers put through the network

The store has its own tree (`patchstore.errors`). Any other exception is a bug and shows its traceback.
"""


class SwathError(Exception):
    """Base of the errors that a user can mend."""


class ConfigError(SwathError, ValueError):
    """A field, a recipe or a configuration file is wrong. A ValueError, so that tyro reports it as such."""


class DataError(SwathError):
    """A split, a plan or a scene cannot serve the configuration."""


class CheckpointError(SwathError):
    """A checkpoint is absent, incomplete, or of another model."""


class LoaderError(SwathError):
    """A process that reads patches is gone or hangs."""


class TrainingError(SwathError):
    """A run cannot go on."""


class DeviceMemoryError(TrainingError):
    """A device's memory does not hold what one of several workers put through the network at once."""

    def __init__(self, message: str, smaller: int) -> None:
        """smaller: how many patches at once the workers may try from their checkpoint on."""
        super().__init__(message, smaller)
        self.smaller = smaller

    def __str__(self) -> str:
        return str(self.args[0])
