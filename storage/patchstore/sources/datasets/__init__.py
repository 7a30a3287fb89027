"""Public data sets, one file each: how a set lies on disk, and the classes that it has."""
