"""The command `batchrec local-personalize`, run with `python -m`."""

from .api.command import local_personalize

if __name__ == "__main__":
    local_personalize(prog_name="python -m batchrec_dagster.local_personalize")
