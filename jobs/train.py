"""Train one model, score it on the validation split, and record it in MLflow.

python jobs/train.py RECIPE --data.store URI [any field] [--workdir DIR] [--run RUN] [--json]
"""

from swath import cli

if __name__ == "__main__":
    cli.run("train")
