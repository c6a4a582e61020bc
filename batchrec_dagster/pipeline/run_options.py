"""The options of one run of a pipeline, such as to train although nothing has changed.

`batchrec run` has a command line option for each, and the Launchpad of `NAME_refresh` opens with
them. Each stands for a field in the config of the ops that it means something to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg


@dataclass(frozen=True)
class RunOption:
    """A switch of one run."""

    name: str
    """As the Launchpad has it. The command line has it with dashes."""
    field: str
    """The field in the config of the ops that it turns on."""
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
    """The config of a job that makes these assets: a switch for each option.

    Dagster's own config, such as `ops`, can stand next to the switches. Where both set a field of
    an op, Dagster's own config counts.

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
    """Whether the config of a run makes this op train although nothing has changed."""
    ops = config.get("ops") or {}
    own_config = (ops.get(op) or {}).get("config") or {}
    return bool(own_config.get(TRAIN.field, config.get(TRAIN.name)))


def _list_config_fields(asset: dg.AssetsDefinition) -> set[str]:
    """The names of the fields in the config of the asset's op."""
    field = asset.op.config_field
    fields: Mapping[str, Any] = getattr(field.config_type, "fields", {}) if field else {}
    return set(fields)
