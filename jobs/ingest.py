"""Ingest a folder of images and masks into a store.

python jobs/ingest.py RECIPE --data.source DIR --data.store URI [--dry-run] [--skip-bad] [--align] [--json]
"""

from swath import cli

if __name__ == "__main__":
    cli.run("ingest")
