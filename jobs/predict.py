"""Apply a model to scenes: a Cloud-Optimised GeoTIFF of classes for each, and a PNG beside it to look at.

python jobs/predict.py RUN INPUT OUTPUT [--area FILE] [--polygons] [--workers N] [--resume] [--json]
"""

from swath import cli

if __name__ == "__main__":
    cli.run("predict")
