"""The findings of `batchrec check`, with a function for each status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ReadinessStatus = Literal["ok", "warning", "unknown", "failed"]


@dataclass(frozen=True)
class Readiness:
    """The result of a check."""

    check: str
    """The name of the thing that was checked."""
    status: ReadinessStatus
    message: str
    fix: str = ""
    """The way to fix the problem; empty if the status is ok."""


def ok(check: str, message: str) -> Readiness:
    """Return the finding that all is well."""
    return Readiness(check, "ok", message)


def warning(check: str, message: str, fix: str) -> Readiness:
    """Return the finding that something works now, but not for long."""
    return Readiness(check, "warning", message, fix)


def unknown(check: str, message: str, fix: str) -> Readiness:
    """Return the finding that something could not be checked, for example without a permission."""
    return Readiness(check, "unknown", message, fix)


def failed(check: str, message: str, fix: str) -> Readiness:
    """Return the finding that something has to be fixed."""
    return Readiness(check, "failed", message, fix)
