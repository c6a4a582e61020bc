"""Checks whether the packages of an extra are installed; not everyone installs each."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from batchrec_dagster.errors import UserError

# The modules of extras in pyproject.toml, which are imported where they are used. What reads files
# says itself that sql, delta or excel is missing.
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
    """Whether all packages of the extra are installed."""
    return not _find_missing_modules(extra)


def require(extra: str, purpose: str) -> None:
    """Raise UserError unless the extra is installed.

    purpose: what needs it, as the message begins.
    """
    missing = _find_missing_modules(extra)
    if missing:
        raise UserError(
            f"{purpose} needs {', '.join(missing)}: pip install 'batchrec-dagster[{extra}]'"
        )


def _find_missing_modules(extra: str) -> list[str]:
    return [module for module in EXTRAS[extra] if find_spec(module) is None]
