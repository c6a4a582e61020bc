"""Output of the benchmarks: a table on the screen and the same numbers as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchrec_dagster.local_personalize.engine.parallel import count_cores

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".batchrec" / "benchmarks"  # git-ignored


def machine() -> dict[str, Any]:
    """Return facts about the machine of the measurement."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "cores": count_cores(),
        "processor": _read_processor(),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
    }


def _read_processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write(path: Path, facts: Mapping[str, Any]) -> None:
    """Write the facts and the machine as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **facts}, indent=1) + "\n")
    print(f"\nwritten: {path}")


def table(title: str, rows: Sequence[Mapping[str, str]]) -> str:
    """Return a text table with a left-aligned first column and right-aligned other columns."""
    columns = list(rows[0])
    widths = [max(len(name), *(len(row[name]) for row in rows)) for name in columns]
    lines = [title]
    for row in [dict(zip(columns, columns, strict=True)), *rows]:
        first, *other_columns = zip(columns, widths, strict=True)
        cells = [
            row[first[0]].ljust(first[1]),
            *(row[name].rjust(width) for name, width in other_columns),
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
