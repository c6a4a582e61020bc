"""What all blocks of a declaration have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A block of settings. It does not change, and takes no other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
