"""What can go wrong because of what was given or what lies on disk, as opposed to a bug.

    PatchstoreError            one clear line: what was wrong, where, and what to do
    ├── StoreError             not a store, of another format, with other settings, or with a torn scene
    ├── SourceError            a source raster or mask that cannot be read or does not fit
    ├── ReadError              bytes of a store that are absent or damaged; names store, scene, array and chunk
    ├── OutputError            a file that cannot be written, or is there already
    ├── StateError             a store used in a process that was forked from the one that opened it
    └── SettingError           a setting of an ingest with a wrong value; a ValueError too

Any other wrong argument (an unknown scene, a window of side 0) is a ValueError.
"""


class PatchstoreError(Exception):
    """Base of the errors that a user can mend."""


class StoreError(PatchstoreError):
    """There is no store, or one that does not fit: another format, other settings, a torn scene."""


class SourceError(PatchstoreError):
    """A source raster or mask cannot be read, or does not fit its image or the store."""


class ReadError(PatchstoreError):
    """Bytes of a store are absent or damaged."""


class OutputError(PatchstoreError):
    """A file cannot be written, exists already, or was given pixels that are not what it should hold."""


class StateError(PatchstoreError):
    """A store was used after a fork."""


class SettingError(PatchstoreError, ValueError):
    """A setting of an ingest has a wrong value. The message begins with the setting's name."""
