"""Search for the best configuration around a recipe, and train it.

python jobs/search.py RECIPE --data.store URI [--search.trials N] [any field] [--workdir DIR] [--json]
"""

from swath import cli

if __name__ == "__main__":
    cli.run("search")
