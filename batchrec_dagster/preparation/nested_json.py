"""JSON whose values lie within objects and lists: which form it is, and the query that flattens it.

Runs refuse such files with the query in the message. `batchrec new` calls `recognise_nested_form`
to write it into the YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from batchrec_dagster.preparation.column_names import NAMES, simplify_name
from batchrec_dagster.preparation.layout import parse_json
from batchrec_dagster.preparation.polars.decoding import OpenedFile

# The names that the query gives to the columns of the roles. A run recognises them.
COLUMN_NAMES = {
    "user": "user_id",
    "item": "item_id",
    "timestamp": "ts",
    "rating": "rating",
    "event_type": "event_type",
}
# The roles without which there are no interactions.
REQUIRED_ROLES = ("user", "item", "timestamp")

MONGO, DYNAMO = "MongoDB's extended JSON", "DynamoDB's JSON"
CONNECT, CHANGES, TOPIC = (
    "a Kafka Connect envelope (schema and payload)",
    "Debezium's change events (before and after)",
    "a dump of a Kafka topic (key and value)",
)
ROWS_IN_OBJECT, NESTED = "one JSON object that has its rows in a list", "nested JSON"

# How many objects are looked at, and how much of a file that is one object.
SAMPLED_OBJECTS = 200
MOST_CHARACTERS = 16 * 1024 * 1024
# How many columns the query has besides those of the roles, if a role is not recognised.
MOST_COLUMNS = 20

# Keys that stand for the type of the value that they hold.
_MONGO_TYPES = {
    *("$oid", "$date", "$numberLong", "$numberInt", "$numberDouble", "$numberDecimal", "$uuid"),
}
_DYNAMO_TYPES = {"S", "N"}
# Keys that a record of Kafka has next to its value.
_RECORD_KEYS = {"key", "offset", "partition", "topic", "headers"}
# Parts of a path: the elements of a list, and the object that a text holds as JSON.
_ELEMENTS, _TEXT = "[]", "{}"
# Words that SQL does not take for the name of a column.
_RESERVED_WORDS = (
    "all analyse analyze and any array as asc at between both by case cast check collate column"
    " constraint create date default desc distinct do else end except false fetch for foreign from"
    " grant group having in into interval is join lateral left like limit natural not null offset"
    " on only or order outer primary qualify references returning right select set show some"
    " summarize table then time timestamp to true union unique unnest user using value values when"
    " where window with"
)

_RESERVED = set(_RESERVED_WORDS.split())
_ISO_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:$|[T ])")

Path = tuple[str, ...]


@dataclass(frozen=True)
class NestedForm:
    """A form of JSON that only a query reads."""

    words: str
    """What the form is called."""

    query: str
    """The SELECT that makes a row of columns of it, for the setting `query`, in several lines."""

    columns: Mapping[str, str]
    """The columns of the query's result by their roles, as far as their names show them."""

    other_columns: Sequence[str]
    """The further columns of the result. There are none if every required role has a column."""


def recognise_nested_form(
    opened: OpenedFile, roles: Sequence[str] = REQUIRED_ROLES, table: str = "source"
) -> NestedForm | None:
    """What the file is, and the query that flattens it; None if there is nothing nested in it.

    roles: the roles that must have a column.
    table: what the query calls the file.
    """
    objects = [*_read_objects(opened)]
    values = _collect_values(objects)
    if all(len(path) == 1 for path in values):
        return None
    root, words = _find_root(objects)
    paths = [
        path
        for path in values
        # SQL cannot look into what is a text or a number in another row.
        if not any(path[:depth] in values for depth in range(1, len(path)))
        and not _is_beside_rows(path, root)
    ]
    if words is None:
        words = _describe_objects(paths, lines_are_objects=_is_object(opened))
    path_of_role = _choose_paths(paths, root)
    if "timestamp" not in path_of_role:
        free = {path: values[path] for path in paths if path not in path_of_role.values()}
        path_of_role |= _choose_time(free)
    column_of_path = {path: COLUMN_NAMES[role] for role, path in path_of_role.items()}
    other_paths: list[Path] = []
    if set(roles) - path_of_role.keys():
        other_paths = _choose_other_paths(paths, [*path_of_role.values()])
    for path in other_paths:
        column_of_path[path] = _choose_alias(path, column_of_path.values())
    return NestedForm(
        words,
        _write_query(column_of_path, root if words == CHANGES else (), path_of_role, table),
        {role: COLUMN_NAMES[role] for role in path_of_role},
        [column_of_path[path] for path in other_paths],
    )


def _collect_values(objects: Sequence[Mapping[str, object]]) -> dict[Path, list[object]]:
    """The values of all objects that are neither objects nor lists, by their path."""
    values: dict[Path, list[object]] = {}
    for value in objects:
        for path, leaf in _walk(value, ()):
            values.setdefault(path, []).append(leaf)
    return values


def _describe_objects(paths: Sequence[Path], *, lines_are_objects: bool) -> str:
    """What objects with values at these paths are called."""
    if any(part in _MONGO_TYPES for path in paths for part in path):
        return MONGO
    if any(path[-1] in _DYNAMO_TYPES and len(path) > 1 for path in paths):
        return DYNAMO
    return NESTED if lines_are_objects else ROWS_IN_OBJECT


def _choose_other_paths(paths: Sequence[Path], chosen_paths: Sequence[Path]) -> list[Path]:
    """Further paths whose values can be in the same row as those of the chosen ones.

    A person says then which of their columns has a missing role.
    """
    lists = max((_find_list(path) for path in chosen_paths), key=len, default=())
    other_paths = []
    for path in paths:
        if path not in chosen_paths and _are_in_one_list(path, lists):
            other_paths.append(path)
            lists = max(lists, _find_list(path), key=len)
    return other_paths[:MOST_COLUMNS]


def describe_nested_form(name: str, form: NestedForm, setting: str = "ratings") -> str:
    """The message of a run: what the file is, and the query to set, in one line.

    name: what messages call the file.
    setting: the block of the YAML that declares it.
    """
    query = " ".join(form.query.split())
    message = (
        f"{name} is {form.words}, of which a query makes columns. Set {setting}.query: {query}"
    )
    if form.other_columns:
        message += f" and {setting}.columns, of its columns, by what they hold"
    return message


def is_nested(opened: OpenedFile, column: str) -> bool:
    """Whether all values of this column of JSON Lines are objects or lists, and there are any."""
    values = [value.get(column) for value in _read_lines(opened)]
    filled = [value for value in values if value is not None]
    return bool(filled) and all(isinstance(value, dict | list) for value in filled)


def _is_object(opened: OpenedFile) -> bool:
    return next(_read_lines(opened), None) is not None


def _read_objects(opened: OpenedFile) -> Iterator[dict[str, object]]:
    """The first objects of the file, whether they are lines or go over several lines."""
    if _is_object(opened):
        yield from _read_lines(opened)
        return
    decoder = json.JSONDecoder(parse_float=str, parse_int=str)
    with opened.path.open(encoding="utf-8-sig") as file:
        text = file.read(MOST_CHARACTERS)
    position = 0
    for _ in range(SAMPLED_OBJECTS):
        start = len(text) - len(text[position:].lstrip())
        try:
            value, position = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            return
        if not isinstance(value, dict):
            return
        yield value


def _read_lines(opened: OpenedFile) -> Iterator[dict[str, object]]:
    """The objects in the first lines; nothing if the first line is not one."""
    with opened.path.open(encoding="utf-8-sig") as file:
        lines = (line for line in islice(file, SAMPLED_OBJECTS) if line.strip())
        for number, line in enumerate(lines):
            value = parse_json(line)
            if value is not None:
                yield value
            elif number == 0:
                return


def _walk(value: object, path: Path) -> Iterator[tuple[Path, object]]:
    """The values that are neither objects nor lists, with their paths."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _walk(part, (*path, key))
    elif isinstance(value, list):
        for part in value:
            yield from _walk(part, (*path, _ELEMENTS))
    elif isinstance(value, str) and path and (inner := _parse_text(value)) is not None:
        for inner_path, part in _walk(inner, ()):
            # SQL takes single values out of a text, and no lists.
            if _ELEMENTS not in inner_path and _TEXT not in inner_path:
                yield (*path, _TEXT, *inner_path), part
    elif value is not None:
        yield path, value


def _parse_text(text: str) -> dict[str, object] | None:
    return parse_json(text) if text.startswith("{") else None


def _find_root(objects: Sequence[Mapping[str, object]]) -> tuple[Path, str | None]:
    """Where in an object its row is, and what such an object is called; None if nothing says so."""
    root: Path = ()
    words = None
    values: list[object] = [*objects]
    while values and all(isinstance(value, dict) for value in values):
        rows = [value for value in values if isinstance(value, dict)]
        keys = {key for row in rows for key in row}
        if keys == {"schema", "payload"}:
            step: Path | None = ("payload",)
            words = words or CONNECT
        elif {"before", "after", "op"} <= keys:
            step, words = ("after",), CHANGES
        elif keys & _RECORD_KEYS and keys & {"value", "payload"}:
            step = ("value",) if "value" in keys else ("payload",)
            words = words or TOPIC
        else:
            step = None
        if step is None:
            break
        parts = [row.get(step[0]) for row in rows]
        values = [part for part in parts if part is not None]
        texts = [part for part in values if isinstance(part, str)]
        inner = [_parse_text(text) for text in texts]
        if texts and len(texts) == len(values) and None not in inner:
            step, values = (*step, _TEXT), [*inner]
        if not values or not all(isinstance(value, dict) for value in values):
            # The row itself is not an object, so it is no form of its own.
            return (root, words) if root else ((), None)
        root = (*root, *step)
    return root, words


def _is_beside_rows(path: Path, root: Path) -> bool:
    """Whether the path is one of the schema of an envelope, or of the row before a change."""
    neighbours = {"payload": "schema", "after": "before"}
    for depth, part in enumerate(root):
        neighbour = neighbours.get(part)
        if neighbour is not None and path[: depth + 1] == (*root[:depth], neighbour):
            return True
    return False


def _choose_paths(paths: Sequence[Path], root: Path) -> dict[str, Path]:
    """The path of each role, as far as names show it."""
    chosen: dict[str, Path] = {}
    lists: Path = ()
    # The item comes first, as it is in the list of what was bought.
    for role in ("item", *(role for role in COLUMN_NAMES if role != "item")):
        ranks = {
            path: rank
            for path in paths
            if path not in chosen.values()
            and _are_in_one_list(path, lists)
            and (rank := _rank_name(path, NAMES[role])) is not None
        }
        if ranks:
            chosen[role] = min(
                ranks, key=lambda path: (path[: len(root)] != root, ranks[path], len(path))
            )
            lists = max(lists, _find_list(chosen[role]), key=len)
    return {role: chosen[role] for role in COLUMN_NAMES if role in chosen}


def _choose_time(values: Mapping[Path, Sequence[object]]) -> dict[str, Path]:
    """The path of the time, if only one has times; else nothing.

    values: the values at each path that has no role.
    """
    paths = [
        path
        for path, leaves in values.items()
        if "$date" in path or all(isinstance(leaf, str) and _ISO_DAY.match(leaf) for leaf in leaves)
    ]
    return {"timestamp": paths[0]} if len(paths) == 1 else {}


def _find_list(path: Path) -> Path:
    """The path of the innermost list in which the value is; empty if it is in none."""
    depths = [depth for depth, part in enumerate(path, 1) if part == _ELEMENTS]
    return path[: depths[-1]] if depths else ()


def _are_in_one_list(path: Path, lists: Path) -> bool:
    """Whether the value is in this list, or in a list within it or around it.

    Elements of two lists next to each other have nothing to do with each other.
    """
    own = _find_list(path)
    return own == lists[: len(own)] or lists == own[: len(lists)]


def _rank_name(path: Path, names: Sequence[str]) -> int | None:
    """The place of the path's name among these names; None if it is none of them.

    A name may be the last part of the path, such as `sku`, or the last two, such as `user.id`.
    """
    parts = _list_names(path)
    simple = {simplify_name("".join(parts[-count:])) for count in (1, 2)}
    if len(parts) > 1:
        # The list `products` has one product in each of its elements.
        simple.add(simplify_name(parts[-2].removesuffix("s") + parts[-1]))
    if path[-1] == _ELEMENTS and parts:
        simple.add(simplify_name(parts[-1].removesuffix("s")))
    return next((place for place, name in enumerate(names) if name in simple), None)


def _list_names(path: Path) -> list[str]:
    """The parts of a path that name something."""
    parts = [part for part in path if part not in {_ELEMENTS, _TEXT, *_MONGO_TYPES}]
    return parts[:-1] if len(parts) > 1 and parts[-1] in _DYNAMO_TYPES else parts


def _choose_alias(path: Path, taken: Collection[str]) -> str:
    """A name for the column of the path that is not taken."""
    name = re.sub(r"\W+", "_", "_".join(_list_names(path))).strip("_").lower() or "column"
    number, alias = 1, name
    while alias in taken:
        number += 1
        alias = f"{name}_{number}"
    return alias


def _write_query(
    column_of_path: Mapping[Path, str],
    root: Path,
    path_of_role: Mapping[str, Path],
    table: str,
) -> str:
    """The SELECT of these columns.

    column_of_path: the name of the column for each path.
    root: where the row is, if objects without one are left out.
    path_of_role: the paths of the roles, by which the rows are ordered.
    """
    alias_of_list: dict[Path, str] = {}
    unnested = []
    for path in column_of_path:
        for depth, part in enumerate(path):
            prefix = path[: depth + 1]
            if part == _ELEMENTS and prefix not in alias_of_list:
                alias = f"element{len(alias_of_list) + 1}"
                unnested.append((_write_value(path[:depth], alias_of_list, table), alias))
                alias_of_list[prefix] = alias
    columns = [
        f"{_write_value(path, alias_of_list, table)} AS {_quote(name)}"
        for path, name in column_of_path.items()
    ]
    tables = [table, *(f"unnest({value}) AS _{alias}({alias})" for value, alias in unnested)]
    lines = [f"SELECT {', '.join(columns)}", f"FROM {', '.join(tables)}"]
    if root:
        lines.append(f"WHERE {_write_value(root, alias_of_list, table)} IS NOT NULL")
    roles = [role for role in ("timestamp", "user", "item") if role in path_of_role]
    lines.append(f"ORDER BY {', '.join(COLUMN_NAMES[role] for role in roles) or 'ALL'}")
    return "\n".join(lines)


def _write_value(path: Path, alias_of_list: Mapping[Path, str], table: str) -> str:
    """The value at the path, as SQL."""
    if _TEXT in path:
        depth = path.index(_TEXT)
        text = _write_value(path[:depth], alias_of_list, table)
        keys = "".join(f'."{key}"' for key in path[depth + 1 :]).replace("'", "''")
        return f"json_extract_string({text}, '${keys}')" if keys else text
    value = ""
    for depth, part in enumerate(path):
        if part == _ELEMENTS:
            value = alias_of_list[path[: depth + 1]]
        elif not value:
            # A column with the name of the table would be taken for the table.
            value = f"{table}.{part}" if part == table else _quote(part)
        else:
            value += f".{_quote(part)}"
    return value


def _quote(name: str) -> str:
    if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and name.lower() not in _RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'
