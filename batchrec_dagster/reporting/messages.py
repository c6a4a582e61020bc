"""Messages of several sentences on a terminal, with commands that can be copied from it."""

from __future__ import annotations

import re
import textwrap

# A command in a message: `batchrec run shop --train`.
_COMMAND = re.compile(r"`(batchrec [^`]+)`")
# It stands for a space in which no line may break.
_UNBREAKABLE = "\0"


def format_message(text: str, width: int | None, *, program: str, indentation: str = "  ") -> str:
    """The message in lines that fit, indented. A command stays in one line.

    width: the columns of the terminal; None for a pipe, in which a message is one line.
    program: how to call batchrec here, in place of the word in commands.
    """

    def name_program(match: re.Match[str]) -> str:
        command = match[1].replace("batchrec", program, 1)
        return f"`{command.replace(' ', _UNBREAKABLE)}`"

    named = _COMMAND.sub(name_program, text)
    if width is None:
        return f"{indentation}{named}".replace(_UNBREAKABLE, " ")
    lines = textwrap.wrap(
        named,
        width,
        initial_indent=indentation,
        subsequent_indent=f"{indentation}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(_UNBREAKABLE, " ")


def format_labelled(label: str, text: str, width: int | None) -> str:
    """The text behind its label, in lines that fit, below each other. Paths and words stay whole.

    label: with the spaces behind it.
    width: the columns of the terminal; None for a pipe, in which the text is one line.
    """
    if width is None:
        return f"{label}{text}"
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)
