"""Look after a store: what is in it, removing scenes and old versions, exporting scenes.

python jobs/store.py list STORE
python jobs/store.py remove STORE SCENE …
python jobs/store.py collect STORE [--unfinished] [--pretend]
python jobs/store.py export STORE SCENE OUT.tif [--array mask] [--rows 0 4096] [--cols 0 4096] [--level 2]
"""

from swath import cli

if __name__ == "__main__":
    cli.run("store")
