"""Score a model, the models of a cross-validation, or a map that was made elsewhere, on whole scenes of a split.

python jobs/evaluate.py RUN [RUN …] [--data.store URI] --split test [--json]
python jobs/evaluate.py RUN|RECIPE|--config FILE --map DIR_OR_FILE --data.store URI [--map-classes 1=water 0= …]
python jobs/evaluate.py --ledger
"""

from swath import cli

if __name__ == "__main__":
    cli.run("evaluate")
