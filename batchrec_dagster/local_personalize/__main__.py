"""`python -m batchrec_dagster.local_personalize`: the same as `batchrec local-personalize`."""

from .api.command import local_personalize

if __name__ == "__main__":
    local_personalize(prog_name="python -m batchrec_dagster.local_personalize")
