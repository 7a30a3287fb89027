"""Say what a run will see, how well it can do at best, and what it will take, before it is started.

python jobs/plan.py RECIPE --data.store URI [any field] [--bench] [--sheet FILE.png] [--json]
"""

from swath import cli

if __name__ == "__main__":
    cli.run("plan")
