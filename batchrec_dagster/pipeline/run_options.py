"""The options of one run, such as to train although nothing has changed, in the config of its ops.

`batchrec run` has a command line option for each, and the Launchpad opens with all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

# The options in the config of ops. An op has those that mean something to it.
PUBLISH_ANYWAY = "skip_quality_gate"
FORCE_IMPORT = "force_import"
FORCE_TRAIN = "force_train"
OPTIONS = (PUBLISH_ANYWAY, FORCE_IMPORT, FORCE_TRAIN)


def build_options_config(
    assets: Iterable[dg.AssetsDefinition], options: Mapping[str, bool]
) -> dict[str, Any]:
    """The run config that sets these options in the op of each asset that has them."""
    ops = {}
    for asset in assets:
        field = asset.op.config_field
        fields: Mapping[str, Any] = getattr(field.config_type, "fields", {}) if field else {}
        values = {name: value for name, value in options.items() if name in fields}
        if values:
            ops[asset.op.name] = {"config": values}
    return {"ops": ops}


def build_default_config(assets: Iterable[dg.AssetsDefinition]) -> dict[str, Any]:
    """The run config in which no option is on: with it, the Launchpad shows which there are."""
    return build_options_config(assets, dict.fromkeys(OPTIONS, False))
