"""What loading pipelines imports: every start of Dagster, and every step in its own process, waits
for it."""

import subprocess
import sys

# Each is imported where it is used.
HEAVY = {
    *("alembic", "dagster_aws", "implicit", "numpy", "pandas", "pyarrow", "pyspark", "requests"),
    *("scipy", "sqlalchemy", "starlette", "threadpoolctl", "uvicorn", "vl_convert"),
}


def test_loading_pipelines_imports_nothing_that_only_steps_use() -> None:
    code = (
        "import sys; from batchrec_dagster import BatchRecommendations, definitions;"
        "definitions.defs(); print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert set(done.stdout.split()) & HEAVY == set()
