"""PostgreSQL's errors as messages that name the problem and the fix."""

from __future__ import annotations

import re

import psycopg2
from psycopg2 import errors

from batchrec_dagster.errors import Retry, UserError

# The seconds that the sink waits for a lock. A long report that reads the table keeps the sink from
# adding a column. While the sink waits, new readers queue behind the sink, so it has to give up.
LOCK_SECONDS = 10
RIGHTS_HINT = "; the user needs CREATE on the schema, and to own the table where there is one"
# Parts of libpq's messages about errors that a retry cannot fix. Errors before there is a
# connection have no codes, so they are recognised by their text.
LASTING_ERRORS = (
    "authentication failed",
    "authentication method requirement",
    "server does not support SSL",
    "does not exist",
    "invalid",
    "is not permitted to log in",
    "Name or service not known",
    "no password",
    "no pg_hba.conf entry",
    "permission denied",
)
# The start of libpq's message if there is no connection.
NO_CONNECTION = re.compile(
    r'connection to server at "(?P<host>[^"]+)"(?: \([^)]+\))?, port (?P<port>\d+) failed:'
    r" (?:FATAL: +)?(?P<reason>.+)"
)
UNKNOWN_HOST = re.compile(r'could not translate host name "(?P<host>[^"]+)" to address: .+')
# The fixes for errors before there is a connection, by a part of the error's text.
CONNECTION_FIXES = {
    "authentication failed": "correct the user or the password in {variable}",
    "no password": "add the password to {variable}",
    "does not exist": "create it, or correct its name in {variable}",
    "Connection refused": "check that PostgreSQL runs there, and that {variable} has its host and"
    " port",
    "timeout expired": "check that a firewall lets this machine through, and that {variable} has"
    " the right host and port",
}


def explain(error: psycopg2.Error, table: str, variable: str, password: str | None) -> UserError:
    """Return the error with a message of one line, without the password.

    In the message, a semicolon separates the problem from the fix. The error is a Retry if a retry
    may work.

    variable: the environment variable that has the connection's URL.
    """
    text = str(error).strip().partition("\n")[0]
    if password:
        text = text.replace(password, "…")
    message = _describe_failed_connection(text, variable)
    if message is None:
        message = f"cannot write the table {table}: {text}"
        if isinstance(error, errors.InsufficientPrivilege):
            message += RIGHTS_HINT
        if isinstance(error, errors.LockNotAvailable):
            message += (
                f"; another transaction has held it for {LOCK_SECONDS} seconds: end it"
                " (pg_stat_activity shows whose it is)"
            )
    may_be_temporary = isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError))
    if may_be_temporary and not any(part in text for part in LASTING_ERRORS):
        return Retry(message)
    return UserError(message)


def _describe_failed_connection(text: str, variable: str) -> str | None:
    """Return libpq's reason for a failed connection, with the host and the fix.

    Returns None if the text is about something else.
    """
    unknown_host = UNKNOWN_HOST.match(text)
    if unknown_host is not None:
        return f"there is no host {unknown_host['host']}; correct it in {variable}"
    match = NO_CONNECTION.match(text)
    if match is None:
        return None
    reason = match["reason"]
    message = f"{reason[0].lower()}{reason[1:]} at {match['host']}:{match['port']}"
    fixes = [fix for part, fix in CONNECTION_FIXES.items() if part in reason]
    return f"{message}; {fixes[0].format(variable=variable)}" if fixes else message
