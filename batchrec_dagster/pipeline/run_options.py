"""The options of a single run of a pipeline, such as training although nothing has changed.

Each option is a command line option of `batchrec run`, and a switch in the Launchpad of
`NAME_refresh`. It sets a field in the config of all ops that have this field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg


@dataclass(frozen=True)
class RunOption:
    """A switch for a single run."""

    name: str
    """The name in the Launchpad. The command line uses dashes instead of underscores."""
    field: str
    """The field that the option turns on in the config of ops."""
    description: str


PUBLISH_ANYWAY = RunOption(
    "publish_anyway",
    "publish_anyway",
    "Publish all lists although the quality gate refuses them or much of the data is missing.",
)
IMPORT = RunOption("import", "force_import", "Import the data although nothing has changed.")
TRAIN = RunOption("train", "force_train", "Train all models although nothing has changed.")
OPTIONS = (PUBLISH_ANYWAY, IMPORT, TRAIN)


def build_job_config(
    assets: Iterable[dg.AssetsDefinition], base: Mapping[str, Any]
) -> dg.ConfigMapping:
    """Return the config of a job that makes these assets: a switch for each option.

    Dagster's own config, such as `ops`, can stand next to the switches. If a switch and Dagster's
    own config set the same field of an op, Dagster's own config counts.

    base: the config that each run has.
    """
    fields_by_op = {asset.op.name: _list_config_fields(asset) for asset in assets}

    def build_config(config: Mapping[str, Any]) -> dict[str, Any]:
        values = dict(config)
        switched_on = [option for option in OPTIONS if values.pop(option.name, False)]
        own_ops = values.pop("ops", {})
        ops = {op: dict(own_ops[op] or {}) for op in own_ops}
        for op, fields in fields_by_op.items():
            new_config = {option.field: True for option in switched_on if option.field in fields}
            if new_config:
                own_config = ops.setdefault(op, {}).get("config") or {}
                ops[op]["config"] = {**new_config, **own_config}
        return {**base, **values, "ops": ops}

    switches = {
        option.name: dg.Field(bool, default_value=False, description=option.description)
        for option in OPTIONS
    }
    schema = dg.Permissive(switches)  # type: ignore[no-untyped-call]
    return dg.ConfigMapping(config_fn=build_config, config_schema=schema)


def is_training_forced(config: Mapping[str, Any], op: str) -> bool:
    """Return whether a run's config makes this op train although nothing has changed."""
    ops = config.get("ops") or {}
    own_config = (ops.get(op) or {}).get("config") or {}
    return bool(own_config.get(TRAIN.field, config.get(TRAIN.name)))


def _list_config_fields(asset: dg.AssetsDefinition) -> set[str]:
    """Return the names of the fields in the config of the asset's op."""
    field = asset.op.config_field
    fields: Mapping[str, Any] = getattr(field.config_type, "fields", {}) if field else {}
    return set(fields)
