"""Plot of scale.py's CPU time and memory by interactions, as SVG without a library."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

COLUMNS = ("interactions", "users", "step", "seconds", "cpu_seconds", "peak_gb")
COLOURS = {"import": "#4e79a7", "train": "#f28e2b", "infer": "#59a14f", "all": "#333333"}
# The size of a panel, and its margins.
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 400, 300, 56, 34, 62, 44

Row = Mapping[str, str]
Points = Sequence[tuple[float, float]]


def read(path: Path) -> list[Row]:
    """Return the rows of earlier runs; empty without a file."""
    return list(csv.DictReader(path.open())) if path.exists() else []


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows as CSV, by size."""
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        out.writeheader()
        out.writerows(sorted(rows, key=lambda row: int(row["interactions"])))


def draw_svg(rows: Sequence[Row]) -> str:
    """Return an SVG with two log-log panels: CPU seconds and peak GB by interactions."""
    sizes = sorted({int(row["interactions"]) for row in rows})
    panels = []
    for number, (column, title) in enumerate((("cpu_seconds", "CPU s"), ("peak_gb", "GB at most"))):
        lines: dict[str, Points] = {
            step: [(int(r["interactions"]), float(r[column])) for r in rows if r["step"] == step]
            for step in COLOURS
            if step != "all"
        }
        add = sum if column == "cpu_seconds" else max
        totals = [add(dict(line).get(size, 0.0) for line in lines.values()) for size in sizes]
        lines["all"] = list(zip(sizes, totals, strict=True))
        panels.append(_draw_panel(lines, title, number * WIDTH))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(panels) + "\n</svg>\n"
    )


def _draw_panel(lines: Mapping[str, Points], title: str, left_edge: int) -> str:
    points = [point for line in lines.values() for point in line if point[1] > 0]
    low_x, high_x = (_find_decade(f(x for x, _ in points), f) for f in (min, max))
    low_y, high_y = (_find_decade(f(y for _, y in points), f) for f in (min, max))

    def locate(x: float, y: float) -> tuple[float, float]:
        horizontal_share = (math.log10(x) - low_x) / (high_x - low_x)
        vertical_share = (math.log10(y) - low_y) / (high_y - low_y)
        return (
            left_edge + LEFT + horizontal_share * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - vertical_share * (HEIGHT - TOP - BOTTOM),
        )

    out = [_draw_text(left_edge + LEFT, TOP - 14, title, "start")]
    for power in range(low_x, high_x + 1):
        x, y = locate(10**power, 10**low_y)
        out.append(_draw_line([(x, y), locate(10**power, 10**high_y)], "#dddddd"))
        out.append(_draw_text(x, y + 16, f"{10**power / 1e6:g} M", "middle"))
    for power in range(low_y, high_y + 1):
        x, y = locate(10**low_x, 10**power)
        out.append(_draw_line([(x, y), locate(10**high_x, 10**power)], "#dddddd"))
        out.append(_draw_text(x - 6, y + 4, f"{10.0**power:g}", "end"))
    first, last = lines["all"][0], lines["all"][-1]
    line_end = min(last[0] / first[0], 10**high_y / first[1])
    ends = [locate(*first), locate(first[0] * line_end, first[1] * line_end)]
    out.append(_draw_line(ends, "#999999", 'stroke-dasharray="4 4"'))
    for name, line in lines.items():
        places = [locate(*point) for point in sorted(line) if point[1] > 0]
        out.append(_draw_line(places, COLOURS[name], 'stroke-width="2"'))
        out += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[name]}"/>' for x, y in places
        ]
        out.append(_draw_text(places[-1][0] + 8, places[-1][1] + 4, name, "start", COLOURS[name]))
    middle = left_edge + (LEFT + WIDTH - RIGHT) / 2
    out.append(
        _draw_text(middle, HEIGHT - 8, "interactions (dashed: in proportion to them)", "middle")
    )
    return "\n".join(out)


def _find_decade(value: float, side: object) -> int:
    log = math.log10(value)
    return math.floor(log) if side is min else math.ceil(log)


def _draw_line(places: Points, colour: str, more_attributes: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" {more_attributes}/>'


def _draw_text(x: float, y: float, text: str, anchor: str, colour: str = "#333333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'
