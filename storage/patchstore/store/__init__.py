"""Reading a store."""

from patchstore.store.read import Store, open

__all__ = ["Store", "open"]
