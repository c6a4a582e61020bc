"""Generator of the reference pages, which mkdocs calls when it builds the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from batchrec_dagster.cli import main
from batchrec_dagster.config.environment import VARIABLES as DESCRIBED_VARIABLES
from batchrec_dagster.config.json_schema import build_declaration_schema
from batchrec_dagster.personalize.recipes import HYPERPARAMETERS
from batchrec_dagster.steps.thresholds import THRESHOLDS

SETTINGS_INTRODUCTION = """# Settings of a pipeline

This page lists every setting of a pipeline's YAML. Look here for the name of a setting, for what it
may be, and for its default. To learn what the settings are for, start with the
[tutorial](tutorial.md) and [your own data](own-data.md).

The page is generated from the code. `batchrec init` writes the same as a JSON schema,
`defs.schema.json`, by which editors complete and check the YAML. Only `name` and
`ratings.source` are needed:

```yaml
type: batchrec_dagster.BatchRecommendations
attributes:
  name: shop
  ratings: {source: data/orders.csv}
```

"""
TEMPLATES = """## Templates

A value may have templates, which are filled in before it is checked:

| a template | its value |
|---|---|
| `"{{ env.RATINGS }}"` | a variable of the environment |
| `'{{ "a{{b" }}'` | text that has `{{` |

Nothing else is one. Under `post_processing`, Dagster's own templates work, with the functions of
`template_vars_module`.
"""
ENVIRONMENT_INTRODUCTION = """# Environment variables

This page lists the variables that say where data and models are, and how much a run may take. Look
here when you move from your machine to a server or to AWS. It is generated from the code.

Set them in the environment, or write them into a file `.env` in the project. AWS's own variables
(`AWS_PROFILE`, `AWS_REGION`, `AWS_ENDPOINT_URL_S3`, …) work as with every AWS tool.
`batchrec check` checks the whole deployment and says what to fix.

"""
COMMANDS_INTRODUCTION = """# Commands

This page has the help of each command. Look here for an option, or for the command that does what
you want. It is generated from the code: `batchrec COMMAND --help` prints the same.

"""

# The blocks of a pipeline by topic.
BLOCKS = {
    "The pipeline": ("name", "description"),
    "What is read": ("ratings", "interactions", "items", "users", "preparation"),
    "The model": ("solution",),
    "Who gets which lists": (
        *("batch_users", "recommendations", "lists", "similar_items", "segments"),
        *("popularity", "experiment"),
    ),
    "What is published, and where": ("gate", "sinks", "retention", "report"),
    "When and where it runs": (
        *("schedule", "on_new_files", "alerts"),
        *("budget", "op"),
    ),
}
EXAMPLES = {
    "ratings": """
ratings:
  source: data/orders.csv
  columns: {user: customer_id, item: sku, timestamp: ordered_at}
  on_bad_rows: skip""",
    "interactions": """
interactions:
  filter: quantity > 0
  window: {days: 365}""",
    "items": """
items:
  source: data/products.csv
  columns: {item: sku, title: name, categories: {CATEGORY: category}, numbers: {PRICE: price}}""",
    "users": """
users:
  source: data/customers.csv
  columns: {user: customer_id, categories: {COUNTRY: country, CONSENT: newsletter}}""",
    "preparation": "preparation: {engine: spark}",
    "solution": """
solution:
  recipe: aws-user-personalization-v2
  success: [purchase]
  retrain: {every_days: 7}""",
    "batch_users": """
batch_users:
  filter: USERS.CONSENT = "yes"
  active_since: 2026-01-01""",
    "recommendations": """
recommendations:
  num_results: 12
  newcomers: {popular_by: COUNTRY}
  rules: {only: ITEMS.STOCK > 0, max_per: {CATEGORY: 3}}
  columns: [title, image, link, PRICE]""",
    "lists": """
lists:
  newsletter:
    users: {source: data/customers.csv, column: customer_id}
    num_results: 12
  home: {num_results: 24}""",
    "similar_items": """
similar_items:
  num_results: 8
  rules: {only: ITEMS.STOCK > 0}""",
    "segments": """
segments:
  items: ["4711", "815"]
  users_per_segment: 500""",
    "popularity": "popularity: {days: 30}",
    "experiment": "experiment: {name: holdout_2027, control_share: 0.1, control: popular}",
    "gate": "gate: {min_ndcg_at_25: 0.05, max_drop: 0.2}",
    "sinks": """
sinks:
  postgres: {url_env: SHOP_DATABASE_URL, table: recommendations}
  export: {format: jsonl, path: mail/lists.jsonl}""",
    "retention": "retention: {editions: 14, models: 2}",
    "report": "report: {people: [C-0001]}",
    "schedule": 'schedule: {cron: "0 3 * * *", timezone: Europe/Vienna, enabled: true}',
    "on_new_files": "on_new_files: {enabled: true, every_seconds: 300}",
    "alerts": "alerts: {urls_env: SHOP_ALERTS, late_after_hours: 3, published: true}",
    "budget": "budget: {max_usd_per_run: 20}",
    "op": """
op:
  solution_version: {pool: training, retries: {max_retries: 2, delay_seconds: 60}}""",
}
VARIABLES = {
    "Where data and models are": (
        *("BATCHREC_STORAGE", "BATCHREC_PERSONALIZE", "BATCHREC_HOME", "DAGSTER_HOME"),
    ),
    "On AWS": (
        *("BATCHREC_ROLE_ARN", "BATCHREC_S3_RESOURCE", "BATCHREC_TAGS", "BATCHREC_PRICES"),
        *("BATCHREC_POLL_SECONDS", "BATCHREC_BUSY_SECONDS", "BATCHREC_DEADLINE_HOURS"),
    ),
    "Logs and the web page": ("BATCHREC_LOG_FORMAT", "BATCHREC_ALLOWED_HOSTS"),
    "Limits of files and queries": (
        *("BATCHREC_MAX_FILE_GB", "BATCHREC_MAX_LINE_KB", "BATCHREC_MAX_FILE_MEMORY_GB"),
        *("BATCHREC_MAX_FILE_MINUTES", "BATCHREC_QUERY_MEMORY_GB", "BATCHREC_QUERY_MINUTES"),
    ),
}
COMMANDS = {
    "Make lists": ("init", "new", "check", "run"),
    "Look at them": ("open", "show", "list", "diff", "ui"),
    "Put something right": ("rollback", "forget", "teardown"),
    "Help other programs": ("local-personalize",),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages; mkdocs calls this hook."""
    for name, content in build_pages().items():
        files.append(File.generated(config, name, content=content))
    return files


def build_pages() -> dict[str, str]:
    """Return the pages as Markdown by name."""
    return {
        "reference.md": SETTINGS_INTRODUCTION + "\n".join(_SettingsPage().parts()) + TEMPLATES,
        "environment.md": ENVIRONMENT_INTRODUCTION + "\n".join(_environment_parts()),
        "commands.md": COMMANDS_INTRODUCTION + "\n".join(_command_parts()),
    }


def _require_all(groups: Mapping[str, tuple[str, ...]], names: Iterable[str]) -> None:
    """Raise ValueError, which ends the build, unless the groups have each name exactly once."""
    grouped = sorted(name for group in groups.values() for name in group)
    if grouped != sorted(names):
        raise ValueError(
            f"docs/reference.py: {set(grouped) ^ set(names)} are in no group, or twice"
        )


class _SettingsPage:
    """The page of settings, which describes each block and each repeated setting only once."""

    def __init__(self) -> None:
        schema = build_declaration_schema()
        self._attributes: dict[str, Any] = schema["properties"]["attributes"]
        self._definitions: dict[str, dict[str, Any]] = schema["$defs"]
        # The path of the block that describes a definition or a setting's text.
        self._places = {
            reference: name
            for name, setting in self._attributes["properties"].items()
            for reference, _ in _references(setting)
        }
        self._words: dict[tuple[str, str], str] = {}

    def parts(self) -> Iterator[str]:
        settings = self._attributes["properties"]
        _require_all(BLOCKS, settings)
        yield _table(
            ("what you decide", "blocks"),
            [
                (f"[{group}](#{_slug(group)})", ", ".join(self._link(name) for name in names))
                for group, names in BLOCKS.items()
            ],
        )
        for group, names in BLOCKS.items():
            yield f"## {group}\n"
            plain = [name for name in names if not [*_references(settings[name])]]
            if plain:
                yield self._settings_table("", {name: settings[name] for name in plain}, {"name"})
            for name in names:
                if name not in plain:
                    yield f"### {name}\n\n{_text(settings[name])}\n"
                    if name in EXAMPLES:
                        yield f"```yaml\n{EXAMPLES[name].strip()}\n```\n"
                    yield from self._blocks(name, settings[name], 4)
            if group == "The model":
                yield "### Hyperparameters\n\nThese are the values of `solution.hyperparameters`.\n"
                yield _hyperparameters_table()
            if group == "What is published, and where":
                yield "### Thresholds of findings\n\nThese are rules of thumb, not settings.\n"
                yield _thresholds_table()

    def _link(self, name: str) -> str:
        has_section = [*_references(self._attributes["properties"][name])]
        return f"[`{name}`](#{_slug(name)})" if has_section else f"`{name}`"

    def _blocks(self, path: str, setting: dict[str, Any], level: int) -> Iterator[str]:
        """Yield the tables of the setting's possible blocks, then of the blocks inside."""
        for reference, is_named in _references(setting):
            block_path = f"{path}.NAME" if is_named else path
            block = self._definitions[reference]
            self._places.setdefault(reference, block_path)
            required = set(block.get("required", ()))
            yield self._settings_table(block_path, block["properties"], required)
            for name, inner in block["properties"].items():
                inner_path = f"{block_path}.{name}"
                if self._is_new(inner):
                    yield f"{'#' * level} {inner_path}\n"
                    yield from self._blocks(inner_path, inner, min(level + 1, 5))

    def _is_new(self, setting: dict[str, Any]) -> bool:
        references = [reference for reference, _ in _references(setting)]
        return bool(references) and not self._places.keys() & {*references}

    def _settings_table(
        self, path: str, settings: Mapping[str, dict[str, Any]], required: set[str]
    ) -> str:
        """Return a table with a row for each setting, required settings first."""
        rows = []
        for name in sorted(settings, key=lambda name: name not in required):
            setting = settings[name]
            notes = [self._kind(f"{path}.{name}", setting)]
            default = _default(setting)
            notes += ["**needed**"] if name in required else [default] if default else []
            rows.append((f"`{name}`<br>{', '.join(notes)}", self._meaning(path, name, setting)))
        return _table(("setting", "what it is"), rows)

    def _kind(self, path: str, setting: dict[str, Any]) -> str:
        """Return the setting's type, allowed values, or a link to its block."""
        references = [*_references(setting)]
        if not references:
            return _type(setting)
        ((reference, is_named), *_) = references
        place = self._places.get(reference, f"{path}.NAME" if is_named else path).lstrip(".")
        heading = place.removesuffix(".NAME") if is_named else place
        link = f"[{place}](#{_slug(heading)})"
        return f"list of {link}" if _is_list(setting) else link

    def _meaning(self, path: str, name: str, setting: dict[str, Any]) -> str:
        """Return the description, or a link to the block with a setting of the same description."""
        text = _text(setting)
        place = self._words.setdefault((name, text), path)
        if place == path or len(text) < 80:
            return text
        return f"As [`{place}.{name}`](#{_slug(place.removesuffix('.NAME'))})."


def _hyperparameters_table() -> str:
    recipes: dict[tuple[str, str], list[str]] = {}
    for recipe, values in HYPERPARAMETERS.items():
        for name, value in values.items():
            recipes.setdefault((name, str(value)), []).append(f"`{recipe}`")
    rows = [(f"`{name}`", value, ", ".join(used)) for (name, value), used in recipes.items()]
    return _table(("hyperparameter", "what it may be", "recipes"), rows)


def _thresholds_table() -> str:
    rows = [
        (f"`{threshold.finding}`", str(threshold), threshold.sentence) for threshold in THRESHOLDS
    ]
    return _table(("finding", "threshold", "what is found beyond it"), rows)


def _environment_parts() -> Iterator[str]:
    settings = {variable.name: variable for variable in DESCRIBED_VARIABLES}
    _require_all(VARIABLES, settings)
    for group, names in VARIABLES.items():
        yield f"## {group}\n"
        rows = []
        for name in names:
            default = settings[name].default
            shown = f"<br>{_code(default)}" if default else ""
            rows.append((f"`{name}`{shown}", settings[name].meaning))
        yield _table(("variable and default", "what it is"), rows)


def _command_parts() -> Iterator[str]:
    context = click.Context(main, info_name="batchrec")
    commands = main.commands
    _require_all(COMMANDS, commands)
    for group, names in COMMANDS.items():
        yield f"**{group}**\n"
        rows = [
            (f"[`batchrec {name}`](#batchrec-{name})", commands[name].get_short_help_str(100))
            for name in names
        ]
        yield _table(("command", "what it does"), rows)
    for name in (name for names in COMMANDS.values() for name in names):
        inner = click.Context(commands[name], info_name=name, parent=context)
        yield f"## batchrec {name}\n\n```text\n{commands[name].get_help(inner)}\n```\n"


def _references(schema: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the setting's possible definitions, and whether the setting maps names to them."""
    if "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2], False
    for word in ("anyOf", "allOf"):
        for alternative in schema.get(word, []):
            yield from _references(alternative)
    if isinstance(schema.get("items"), dict):
        yield from _references(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        for reference, _ in _references(schema["additionalProperties"]):
            yield reference, True


def _is_list(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "array" or any(map(_is_list, schema.get("anyOf", [])))


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        kinds = [_type(kind) for kind in schema["anyOf"] if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object":
        return "mapping"
    return str(schema.get("type", schema.get("const", "any")))


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    return "" if default in (None, [], {}, "") else f"default `{json.dumps(default)}`"


def _text(schema: dict[str, Any]) -> str:
    text = str(schema.get("description", ""))
    examples = ", ".join(f"`{_plain(example)}`" for example in schema.get("examples", []))
    return f"{text} For example {examples}." if examples else text


def _plain(example: object) -> str:
    return example if isinstance(example, str) else json.dumps(example)


def _code(text: str) -> str:
    return f"`{text}`" if text and " " not in text else text


def _slug(heading: str) -> str:
    """Return the anchor that mkdocs gives to the heading."""
    return heading.replace(".", "").replace(",", "").replace(" ", "-").lower()


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    escaped = [[cell.replace("|", "\\|").replace("\t", "TAB") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in escaped)
