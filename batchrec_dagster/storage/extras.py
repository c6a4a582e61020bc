"""Checks whether the packages of an optional extra are installed."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from batchrec_dagster.errors import UserError

# The modules of extras in pyproject.toml, which are imported only where they are used. The extras
# sql, delta and excel are not here: the code that reads files says itself if an extra is missing.
EXTRAS = {
    "alerts": ("apprise",),
    "local": ("implicit", "scipy", "threadpoolctl"),
    "report": ("scipy",),
    "postgres": ("psycopg2",),
    "spark": ("pyspark",),
    "serve": ("dagster_webserver", "starlette", "uvicorn"),
}


@cache
def is_installed(extra: str) -> bool:
    """Return whether all packages of the extra are installed."""
    return not _find_missing_modules(extra)


def require(extra: str, purpose: str) -> None:
    """Raise UserError unless the extra is installed.

    purpose: the feature that needs the extra, as the start of the message.
    """
    missing = _find_missing_modules(extra)
    if missing:
        raise UserError(
            f"{purpose} needs {', '.join(missing)}: pip install 'batchrec-dagster[{extra}]'"
        )


def _find_missing_modules(extra: str) -> list[str]:
    return [module for module in EXTRAS[extra] if find_spec(module) is None]
