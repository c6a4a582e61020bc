"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "unknown", "failed"]


@dataclass(frozen=True)
class Finding:
    """`unknown`: it could not be looked at, for want of a permission say; `warning`: it works, but
    not for long. `fix`: what to do, where there is something."""

    check: str
    status: Status
    message: str
    fix: str = ""


def ok(check: str, message: str) -> Finding:
    return Finding(check, "ok", message)


def warning(check: str, message: str, fix: str) -> Finding:
    return Finding(check, "warning", message, fix)


def unknown(check: str, message: str, fix: str) -> Finding:
    return Finding(check, "unknown", message, fix)


def failed(check: str, message: str, fix: str) -> Finding:
    return Finding(check, "failed", message, fix)
