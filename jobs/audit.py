"""Check that a store still holds what was written; exits with 1, and a list, where it does not.

python jobs/audit.py STORE [--sample 0.05] [--json]
"""

from swath import cli

if __name__ == "__main__":
    cli.run("audit")
