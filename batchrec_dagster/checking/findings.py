"""What a check reports: a finding, made by the function of its status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "unknown", "failed"]


@dataclass(frozen=True)
class Finding:
    """The result of a check."""

    check: str
    """The name of what was checked."""
    status: Status
    message: str
    fix: str = ""
    """What to do; empty if the status is ok."""


def ok(check: str, message: str) -> Finding:
    """The finding that all is well."""
    return Finding(check, "ok", message)


def warning(check: str, message: str, fix: str) -> Finding:
    """The finding that something works now, but not for long."""
    return Finding(check, "warning", message, fix)


def unknown(check: str, message: str, fix: str) -> Finding:
    """The finding that something could not be checked, for example for lack of a permission."""
    return Finding(check, "unknown", message, fix)


def failed(check: str, message: str, fix: str) -> Finding:
    """The finding that something has to be fixed."""
    return Finding(check, "failed", message, fix)
