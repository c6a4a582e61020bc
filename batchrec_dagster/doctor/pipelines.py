"""The declared pipelines: whether Dagster can load them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from batchrec_dagster.doctor.findings import Finding, failed, ok
from batchrec_dagster.pipeline.loading import DeclarationError, load_pipelines


def pipelines_findings(package: Path) -> Iterator[Finding]:
    """Of what is declared in the package's defs/."""
    check = "pipelines"
    try:
        load_pipelines(package)
    except DeclarationError as error:
        for line in str(error).splitlines():
            yield failed(check, line, "mend the declaration")
    except Exception as error:  # whatever a Python file there does
        reason = str(error).strip().partition("\n")[0]
        yield failed(
            check,
            f"Dagster cannot load {package / 'defs'}: {type(error).__name__}: {reason}",
            "dagster definitions validate -w workspace.yaml tells more",
        )
    else:
        yield ok(check, f"all that {package / 'defs'} declares can be loaded")
