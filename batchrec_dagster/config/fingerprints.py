"""Fingerprints of settings, by which unchanged settings are recognised in a later run."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel


def fingerprint(*parts: BaseModel | object) -> str:
    """16 hex digits that change when any of the settings does.

    A setting that is written with its default value is as good as one that is not.
    """
    text = "\n".join(
        part.model_dump_json(exclude_defaults=True) if isinstance(part, BaseModel) else repr(part)
        for part in parts
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
