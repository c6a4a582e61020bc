"""The console log of a run: known failures in one line. Their stack traces stay in Dagster's event
log, which the UI shows."""

import logging

import dagster as dg


class _Reasons(logging.Filter):
    """Reduces a dg.Failure to its message."""

    def filter(self, record: logging.LogRecord) -> bool:
        event = getattr(record, "dagster_meta", {}).get("dagster_event")
        error = getattr(getattr(event, "event_specific_data", None), "error", None)
        if error is not None and error.cls_name == "Failure":
            what, _, _ = record.getMessage().partition("\n")
            _, _, why = error.message.strip().partition(": ")
            record.msg = f"{what} Failure: {why}"
        return True


def _console(context: dg.InitLoggerContext) -> logging.Logger:
    logger: logging.Logger = dg.colored_console_logger.logger_fn(context)
    logger.addFilter(_Reasons())
    return logger


console_logger = dg.LoggerDefinition(
    _console,
    description="The default colored console logger, without stack traces of known failures.",
    config_schema=dg.colored_console_logger.config_schema,
)
