"""Texts of a stranger's file that try to run, to load a page, or to look like something else."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt

# Markdown as Dagster's page renders it, and the texts that become links there after parsing
# (mdast-util-gfm-autolink-literal).
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
ADDRESS = re.compile(r"(https?://|www(?=\.))([-.\w]+)|[-.\w+]+@[-\w]+\.[-\w]", re.IGNORECASE)
# A domain that no page and no server may ever send a request to.
OUTSIDE = "stranger.invalid"
HOSTILE = (
    "<script>window.shot = 1</script>",
    "<img src=x onerror='window.shot = 1'>",
    f"<img src=http://{OUTSIDE}/1>",
    f"<iframe src='https://{OUTSIDE}/2'></iframe>",
    "<svg/onload=window.shot=1>",
    f"</script><script src=//{OUTSIDE}/3></script>",
    f"<a href='http://{OUTSIDE}/4'>here</a>",
    f"<style>@import 'http://{OUTSIDE}/5'</style>",
    f"<base href=http://{OUTSIDE}/>",
    f"<meta http-equiv=refresh content='0;url=http://{OUTSIDE}/6'>",
    f"![i](http://{OUTSIDE}/7.png)",
    f"![i](//{OUTSIDE}/8.png)",
    f"![i][r] [r]: http://{OUTSIDE}/9",
    "[click](javascript:window.shot=1)",
    f"[click](http://{OUTSIDE}/10)",
    f"<http://{OUTSIDE}/11>",
    f"http://{OUTSIDE}/12",
    f"HTTPS://{OUTSIDE}/13",
    f"www.{OUTSIDE}",
    f"mail@{OUTSIDE}",
    f"\\![i](http://{OUTSIDE}/14) \\\\![j](http://{OUTSIDE}/15)",
    "&#60;script&#62;window.shot = 1&#60;/script&#62;",
    "*no* **no** _no_ ~~no~~ `no` ```no```",
    "# no",
    "1. no",
    "- [ ] no",
    "> no",
    "a | b | c",
    "--- | ---",
    "{{ 7 * 7 }} ${7 * 7} #{7 * 7} {% raw %}",
    "'; DROP TABLE recommendations; --",
    '"; rm -rf / #',
    "$(touch /tmp/shot) `touch /tmp/shot`",
    '=HYPERLINK("http://' + OUTSIDE + '/16")',
    "+1+1",
    "-1+1",
    "@SUM(1+1)",
    "\t=1+1",
    "a;=1+1;b",
    "\uff1d1+1",
    "\x1b[2J\x1b]0;title\x07\x1b]8;;http://" + OUTSIDE + "/17\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31mred",
    "\u202egnp.exe",
    "line\nbreak",
    "carriage\r=1+1",
    "<!channel> <!here> <@U0123> <#C0123>",
    f"<http://{OUTSIDE}/18|click>",
    "[red]markup[/red]",
    "../../../../etc/passwd",
    "s3://other/key",
    "%s %n {0} {name}",
    "\u2028\u2029\ufeff\u200b",
    "null",
    "NaN",
)
# A text with an image and addresses that Markdown would turn into requests and links.
ADDRESSES = f"![i](http://{OUTSIDE}/19.png) http://{OUTSIDE}/20 www.{OUTSIDE} mail@{OUTSIDE} <b>"
# Characters that control a terminal or reorder the text around them.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def quote_cells(*cells: object) -> str:
    """Return a line of CSV with all cells in quotes."""
    return ",".join('"{}"'.format(str(cell).replace('"', '""')) for cell in cells)
