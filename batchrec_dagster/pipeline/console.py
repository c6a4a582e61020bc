"""The console log of runs.

A known failure is shown in one line. Its stack trace is in Dagster's event log. Characters that
control a terminal are shown as escape sequences.
"""

from __future__ import annotations

import logging

import dagster as dg

from batchrec_dagster.reporting.views.plain import escape_invisible


class _PlainText(logging.Filter):
    """A filter that shortens a dg.Failure to its message, and escapes control characters."""

    def filter(self, record: logging.LogRecord) -> bool:
        event = getattr(record, "dagster_meta", {}).get("dagster_event")
        error = getattr(getattr(event, "event_specific_data", None), "error", None)
        if error is not None and error.cls_name == "Failure":
            first_line = record.getMessage().partition("\n")[0]
            reason = error.message.strip().partition(": ")[2]
            record.msg = f"{first_line} Failure: {reason}"
        lines = record.getMessage().split("\n")
        record.msg = "\n".join(map(escape_invisible, lines))
        record.args = ()
        return True


def _make_console_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """Return Dagster's colored console logger, with known failures in one line."""
    logger: logging.Logger = dg.colored_console_logger.logger_fn(context)
    logger.addFilter(_PlainText())
    return logger


def build_console_logger(log_format: str) -> dg.LoggerDefinition:
    """Return Dagster's console logger.

    log_format: "json", or "text" for text without stack traces of known failures.
    """
    if log_format == "json":
        return dg.json_console_logger
    return dg.LoggerDefinition(
        _make_console_logger,
        description="The default colored console logger, without stack traces of known failures.",
        config_schema=dg.colored_console_logger.config_schema,
    )
