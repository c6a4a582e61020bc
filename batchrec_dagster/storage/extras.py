"""Checks whether the packages of an optional extra are installed."""

from __future__ import annotations

from importlib.util import find_spec

from batchrec_dagster.errors import UserError

# The modules of extras in pyproject.toml, which are imported only where they are used. The extras
# sql, delta and excel are not here: the code that reads files says itself if an extra is missing.
EXTRAS = {
    "alerts": ("apprise",),
    "local": ("implicit", "scipy", "threadpoolctl"),
    "postgres": ("psycopg2",),
    "spark": ("pyspark",),
    "serve": ("dagster_webserver", "starlette", "uvicorn"),
}


def require(extra: str, purpose: str) -> None:
    """Raise UserError unless the extra is installed.

    purpose: the feature that needs the extra, as the start of the message.
    """
    missing = [module for module in EXTRAS[extra] if find_spec(module) is None]
    if missing:
        raise UserError(
            f"{purpose} needs {', '.join(missing)}: pip install 'batchrec-dagster[{extra}]'"
        )
