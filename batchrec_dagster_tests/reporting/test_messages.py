"""Messages on a terminal: they fit, and commands in them can be copied."""

from __future__ import annotations

from batchrec_dagster.reporting.messages import format_labelled, format_message

MESSAGE = (
    "interactions: not_shrunk: much is missing that edition 1 was made from: interactions fell from"
    " 1,598 to 988 (38% fewer). Check the source and run again, or publish anyway:"
    " `batchrec run shop --publish-anyway` (in Dagster's Launchpad: publish_anyway: true)"
)


def test_a_message_fits_the_terminal_and_its_command_stays_in_one_line() -> None:
    text = format_message(MESSAGE, 80, program=".venv/bin/batchrec")
    assert text.splitlines() == [
        "  interactions: not_shrunk: much is missing that edition 1 was made from:",
        "    interactions fell from 1,598 to 988 (38% fewer). Check the source and run",
        "    again, or publish anyway: `.venv/bin/batchrec run shop --publish-anyway` (in",
        "    Dagster's Launchpad: publish_anyway: true)",
    ]


def test_a_message_in_a_pipe_is_one_line() -> None:
    assert format_message(MESSAGE, None, program="batchrec") == f"  {MESSAGE}"


def test_a_labelled_text_stands_below_itself_and_keeps_paths_whole() -> None:
    text = "12 lists have fewer items than requested: see /srv/batchrec/storage/shop/curated/report"
    assert format_labelled("  warning   ", text, 60).splitlines() == [
        "  warning   12 lists have fewer items than requested: see",
        "            /srv/batchrec/storage/shop/curated/report",
    ]
    assert format_labelled("  warning   ", text, None) == f"  warning   {text}"
