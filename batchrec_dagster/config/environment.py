"""The environment variables: the places of data and models, and the limits of a run.

AWS's own variables set the region, profile and endpoint. The readers of sources read the URLs of
databases, and the limits on files and queries, from the environment themselves. This module only
validates and describes these limits.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, AliasChoices, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from batchrec_dagster.config.problems import describe_error
from batchrec_dagster.config.settings import Matching, RoleArn, accepted_by
from batchrec_dagster.config.tags import parse_tags
from batchrec_dagster.personalize.prices import Prices, PricesError
from batchrec_dagster.preparation.sources import limits
from batchrec_dagster.storage.objects import split_uri

EMBEDDED = "embedded"
AWS = "aws"
# The embedded Personalize reads the storage itself, so it checks only the form of the ARN.
LOCAL_ROLE_ARN = "arn:aws:iam::000000000000:role/batchrec-local"

BUCKET = re.compile(r"[a-z\d][a-z\d.-]{1,61}[a-z\d]")


def _require_storage(storage: str) -> None:
    if storage.startswith("s3://"):
        bucket, _ = split_uri(storage)
        if not BUCKET.fullmatch(bucket):
            raise ValueError(
                "a bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens"
            )
    elif "://" in storage:
        raise ValueError("set a folder or s3://bucket/prefix")
    elif Path(storage).is_file():
        raise ValueError("it is a file: set a folder")


def _find_folder(path: Path) -> Path:
    if path.is_file():
        raise ValueError("it is a file: set a folder")
    return path.expanduser().absolute()


def _require_absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"Dagster needs an absolute path, such as {path.absolute()}")
    return path


def _find_prices(path: Path) -> Path:
    file = path.expanduser().absolute()
    try:
        Prices.read(file)
    except PricesError as error:
        raise ValueError(str(error)) from error
    return file


Folder = Annotated[Path, AfterValidator(_find_folder)]
PricesFile = Annotated[Path, AfterValidator(_find_prices)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Endpoint = Annotated[
    str,
    Matching(rf"{EMBEDDED}|{AWS}|https?://[^/\s]+\S*", "set embedded, aws, or the URL of a server"),
]


def _show_default(default: str) -> dict[str, Any]:
    """Return the extra part of the JSON schema for a field with a default in words.

    default: the default, which depends on other variables.
    """
    return {"default_in_words": default}


class Environment(BaseSettings):
    """The validated values of the environment variables, by their names without BATCHREC_."""

    model_config = SettingsConfigDict(
        alias_generator=lambda field: f"BATCHREC_{field.upper()}",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    home: Folder = Field(
        default=Path(".batchrec"),
        validate_default=True,
        description="The folder of the embedded Personalize and of downloads.",
    )
    storage: Annotated[str, accepted_by(_require_storage)] = Field(
        default_factory=lambda values: str(values["home"] / "storage"),
        description="A folder, or `s3://bucket/prefix`.",
        json_schema_extra=_show_default(".batchrec/storage"),
    )
    s3_resource: str = Field(
        default="",
        description="A `dagster_aws.s3.S3Resource` of the project, by its module and name, such as"
        " `acme.resources:s3`. Its keys, profile, region and endpoint then reach S3 and the other"
        " services of AWS.",
    )
    personalize: Endpoint = Field(
        default=EMBEDDED,
        description="`embedded`, `aws`, or the URL of a Personalize endpoint.",
    )
    role_arn: RoleArn = Field(
        default=LOCAL_ROLE_ARN,
        description="The role with which Personalize reads and writes the bucket; needed for"
        " `aws`.",
        json_schema_extra=_show_default(""),
    )
    tags: Annotated[str, accepted_by(parse_tags)] = Field(
        default="",
        description="Tags on everything that batchrec creates on AWS: `team=data,cost-center=42`.",
    )
    poll_seconds: Positive = Field(
        default_factory=lambda values: 30 if values["personalize"] == AWS else 0.05,
        description="How often a run asks whether a job has ended, at first. On long jobs it asks"
        " less often.",
        json_schema_extra=_show_default("30 on aws, else 0.05"),
    )
    busy_seconds: Positive = Field(
        default_factory=lambda values: 300 if values["personalize"] == AWS else 5,
        description="How long a run waits before it tries again when Personalize is busy.",
        json_schema_extra=_show_default("300 on aws, else 5"),
    )
    deadline_hours: Positive = Field(
        default=24,
        description="How long a run may take while it waits for imports, trainings and batch jobs"
        " before it gives up.",
    )
    prices: PricesFile | None = Field(
        default=None,
        description="A YAML file of what Personalize charges, for estimates and budgets: those of"
        " batchrec's six prices that differ.",
    )
    max_file_gb: Positive | None = Field(
        default=None,
        description="How large one file of a source may become when it is unpacked (archives,"
        " compressed files, Parquet). A download may have 50 GB.",
        json_schema_extra=_show_default("200 times its size: at least 0.1, at most 50"),
    )
    max_line_kb: Positive = Field(
        default=limits.DEFAULT_LINE_KB,
        description="The longest line of a source's text file. A cell of Parquet may have a"
        " sixteenth of that.",
    )
    max_file_memory_gb: Positive = Field(
        default=limits.DEFAULT_FILE_MEMORY_GB,
        description="The memory, counted as address space, of the process that reads a source's"
        " archives, workbooks, JSON arrays, Parquet files and Delta tables.",
    )
    max_file_minutes: Positive = Field(
        default=limits.DEFAULT_FILE_MINUTES,
        description="How much CPU time that process may take for one file or table.",
    )
    query_memory_gb: Positive = Field(
        default=limits.DEFAULT_QUERY_MEMORY_GB,
        description="The memory of one query of a source's files. What needs more spills to disk.",
    )
    query_minutes: Positive = Field(
        default=limits.DEFAULT_QUERY_MINUTES,
        description="How long one query of a source may take.",
    )
    allowed_hosts: str = Field(
        default="",
        description="Host names, other than localhost, by which clients reach `batchrec ui` and"
        " `batchrec local-personalize`: `a.example,b.example`.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="How runs write their console log: `text` or `json`."
    )
    dagster_home: Annotated[Path, AfterValidator(_require_absolute)] | None = Field(
        default=None,
        validation_alias="DAGSTER_HOME",
        description="Where Dagster keeps its `dagster.yaml` and its history: an absolute path. The"
        " default is for batchrec's commands. Dagster's own keep no history unless it is set.",
        json_schema_extra=_show_default("BATCHREC_HOME/dagster"),
    )
    aws_region: str | None = Field(
        default=None, validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION")
    )
    aws_profile: str | None = Field(default=None, validation_alias="AWS_PROFILE")
    aws_endpoint_url: str | None = Field(
        default=None, validation_alias=AliasChoices("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    )

    @model_validator(mode="after")
    def _aws_has_what_it_needs(self) -> Self:
        if self.personalize == AWS and not self.storage.startswith("s3://"):
            raise ValueError(
                "BATCHREC_PERSONALIZE=aws reads from S3: set BATCHREC_STORAGE=s3://bucket/prefix"
            )
        if self.personalize == AWS and self.role_arn == LOCAL_ROLE_ARN:
            raise ValueError(
                "BATCHREC_PERSONALIZE=aws needs BATCHREC_ROLE_ARN: the role with which"
                " Personalize reads and writes the bucket"
            )
        return self

    @property
    def embedded(self) -> bool:
        """Whether Personalize runs in this process."""
        return self.personalize == EMBEDDED


class Variable(NamedTuple):
    """An environment variable, as the reference describes it."""

    name: str
    default: str
    """The default, in words if it depends on other variables."""
    meaning: str


def _list_variables() -> tuple[Variable, ...]:
    variables = []
    for info in Environment.model_fields.values():
        if info.description is not None:
            extra = info.json_schema_extra
            words = extra.get("default_in_words") if isinstance(extra, dict) else None
            default = info.default if words is None else words
            text = "" if default is None else str(default)
            variables.append(Variable(str(info.validation_alias), text, info.description))
    return tuple(variables)


VARIABLES = _list_variables()


def describe_problems(error: ValidationError) -> str:
    """Return one line that names the wrong variables and says what to set."""
    return "; ".join(
        _describe_problem(detail)
        for detail in error.errors()
        # Such an error says that a default could not be computed. The variable that the default
        # depends on has an error of its own.
        if detail["type"] != "default_factory_not_called"
    )


def _describe_problem(detail: ErrorDetails) -> str:
    message = describe_error(detail)
    if not detail["loc"]:
        return message
    name, value = detail["loc"][0], repr(str(detail["input"]))
    return f"{name}: {message}" if value in message else f"{name} is {value}: {message}"


def find_misspelt_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the probable right name of each misspelt BATCHREC variable, by the misspelt name."""
    names = [variable.name for variable in VARIABLES]
    corrections = {}
    for name in environment:
        if name in names or not name.startswith("BATCHREC"):
            continue
        similar_names = difflib.get_close_matches(name, names, n=1, cutoff=0.85)
        if similar_names:
            corrections[name] = similar_names[0]
    return corrections
