"""Why lists could not be written: what lasts until somebody mends it, and what may pass."""


class SinkError(Exception):
    """The lists cannot be written as declared; the message says why and what to do."""


class SinkUnavailableError(SinkError):
    """They cannot be written now: the same may work later."""
