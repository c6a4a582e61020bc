"""The error that steps raise when a run cannot go on."""

from __future__ import annotations


class StepError(Exception):
    """A step cannot be done as things are, and another try would not help.

    The message tells the user what to do; the asset fails with it alone.
    """
