"""From nothing to the best of a few models, its score and a map, in minutes on two cores.

python jobs/quickstart.py [--data DIR] [--workdir DIR]

Without --data it generates orthophotos (recipe `synthetic`); with it, it reads images and masks from DIR by a recipe's
description of them (`dubai_unet` unless --recipe says otherwise).
"""

from swath import cli

if __name__ == "__main__":
    cli.run("quickstart")
