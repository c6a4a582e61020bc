"""The settings of a deployment, from environment variables, and the Dagster resources they make.

Sources of data read their own variables: the URLs of databases, and limits.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

from batchrec_dagster.deployment import io_managers
from batchrec_dagster.deployment.resources import AWS, EMBEDDED, LOCAL_ROLE_ARN, PersonalizeResource
from batchrec_dagster.deployment.s3_resource import S3_RESOURCE_VARIABLE, read_s3_resource
from batchrec_dagster.deployment.storage_resource import S3ConnectionResource, StorageResource
from batchrec_dagster.deployment.tags import parse_tags
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.prices import PRICES_VARIABLE, Prices, PricesError
from batchrec_dagster.preparation.sources import limits
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.objects import split_uri
from batchrec_dagster.web import HOSTS_VARIABLE

ROLE = re.compile(r"arn:[a-z\d-]+:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-/]+")
BUCKET = re.compile(r"[a-z\d][a-z\d.-]{1,61}[a-z\d]")
URL = re.compile(r"https?://[^/\s]+\S*")


@dataclass(frozen=True)
class Setting:
    """An environment variable, as the reference describes it."""

    name: str
    default: str
    """Its default, in words if it depends on other settings."""
    meaning: str


SETTINGS = (
    Setting("BATCHREC_STORAGE", ".batchrec/storage", "A folder, or `s3://bucket/prefix`."),
    Setting(
        S3_RESOURCE_VARIABLE,
        "",
        "A `dagster_aws.s3.S3Resource` of the project, by its module and name, such as"
        " `acme.resources:s3`. Its keys, profile, region and endpoint then reach S3 and the other"
        " services of AWS.",
    ),
    Setting(
        "BATCHREC_PERSONALIZE",
        "embedded",
        "`embedded`, `aws`, or the URL of a Personalize endpoint.",
    ),
    Setting(
        "BATCHREC_ROLE_ARN",
        "",
        "The role with which Personalize reads and writes the bucket; needed for `aws`.",
    ),
    Setting(
        "BATCHREC_TAGS",
        "",
        "Tags on everything that batchrec creates on AWS: `team=data,cost-center=42`.",
    ),
    Setting(
        "BATCHREC_POLL_SECONDS",
        "30 on aws, else 0.05",
        "How often a run asks whether a job has ended, at first. On long jobs it asks less often.",
    ),
    Setting(
        "BATCHREC_BUSY_SECONDS",
        "300 on aws, else 5",
        "How long a run waits before it tries again when Personalize is busy.",
    ),
    Setting(
        "BATCHREC_DEADLINE_HOURS",
        "24",
        "How long a run waits for one import, training or batch inference before it gives up.",
    ),
    Setting(
        "BATCHREC_HOME", ".batchrec", "The folder of the embedded Personalize and of downloads."
    ),
    Setting(
        PRICES_VARIABLE,
        "",
        "A YAML file of what Personalize charges, for estimates and budgets: those of batchrec's"
        " six prices that differ.",
    ),
    Setting(
        limits.MAX_FILE_GB,
        "200 times its size: at least 0.1, at most 50",
        "How large one file of a source may become when it is unpacked (archives, compressed files,"
        " Parquet). A download may have 50 GB.",
    ),
    Setting(
        limits.MAX_LINE_KB,
        str(limits.DEFAULT_LINE_KB),
        "The longest line of a source's text file. A cell of Parquet may have a sixteenth of that.",
    ),
    Setting(
        limits.MAX_FILE_MEMORY_GB,
        str(limits.DEFAULT_FILE_MEMORY_GB),
        "The memory, counted as address space, of the process that reads a source's archives,"
        " workbooks, JSON arrays, Parquet files and Delta tables.",
    ),
    Setting(
        limits.MAX_FILE_MINUTES,
        str(limits.DEFAULT_FILE_MINUTES),
        "How much CPU time that process may take for one file or table.",
    ),
    Setting(
        limits.QUERY_MEMORY_GB,
        str(limits.DEFAULT_QUERY_MEMORY_GB),
        "The memory of one query of a source's files. What needs more spills to disk.",
    ),
    Setting(
        limits.QUERY_MINUTES,
        str(limits.DEFAULT_QUERY_MINUTES),
        "How long one query of a source may take.",
    ),
    Setting(
        HOSTS_VARIABLE,
        "",
        "Host names, other than localhost, by which clients reach `batchrec ui` and"
        " `batchrec local-personalize`: `a.example,b.example`.",
    ),
    Setting("BATCHREC_LOG_FORMAT", "text", "How runs write their console log: `text` or `json`."),
    Setting(
        "DAGSTER_HOME",
        "BATCHREC_HOME/dagster",
        "Where Dagster keeps its `dagster.yaml` and its history: an absolute path. The default is"
        " for batchrec's commands. Dagster's own keep no history unless it is set.",
    ),
)


def find_misspelt_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The setting that each misspelt BATCHREC variable probably means, by the variable's name."""
    names = [setting.name for setting in SETTINGS]
    corrections = {}
    for variable in environment:
        if variable in names or not variable.startswith("BATCHREC"):
            continue
        similar_names = difflib.get_close_matches(variable, names, n=1, cutoff=0.85)
        if similar_names:
            corrections[variable] = similar_names[0]
    return corrections


def resource_key(name: str) -> str:
    """The key that the resource or IO manager of this name has in a code location."""
    return f"batchrec_{name}"


class DeploymentError(ValueError):
    """An environment variable is invalid. The message names it and the values that it may have."""


@dataclass(frozen=True)
class Deployment:
    """The validated values of SETTINGS.

    Region, profile and S3 endpoint come from AWS's own variables.
    """

    home: Path
    storage: str
    personalize: str
    role_arn: str
    tags: str
    poll_seconds: float
    busy_seconds: float
    deadline_hours: float
    log_format: str
    dagster_home: Path | None
    prices: Path | None
    region: str | None
    profile: str | None
    s3_endpoint: str | None
    aws_keys: tuple[tuple[str, str], ...] = ()
    """The keys of a resource of the project, by the fields of S3Connection. Without them, AWS's own
    variables and files have the keys."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Deployment:
        """The deployment that these variables describe. Raises DeploymentError."""
        try:
            limits.Limits.from_environment(environment)
            deployment = cls._read(environment)
        except limits.LimitError as error:
            raise DeploymentError(str(error)) from error
        first_problem = next(deployment._find_problems(), None)
        if first_problem is not None:
            raise DeploymentError(first_problem)
        return deployment

    @classmethod
    def _read(cls, environment: Mapping[str, str]) -> Deployment:
        """The settings, of which only the numbers are validated yet. Raises LimitError."""

        def get(name: str, default: str = "") -> str:
            return environment.get(name, "").strip() or default

        def get_number(name: str, default: float) -> float:
            return limits.read_positive_number(environment, name) or default

        own_s3: Mapping[str, str] = {}
        s3_resource = get(S3_RESOURCE_VARIABLE)
        if s3_resource:
            try:
                own_s3 = read_s3_resource(s3_resource)
            except ValueError as error:
                raise DeploymentError(
                    f"{S3_RESOURCE_VARIABLE} is {s3_resource!r}: {error}"
                ) from error

        def get_own(field: str) -> str | None:
            value = own_s3.get(field)
            return value.get_value() if isinstance(value, dg.EnvVar) else value

        home = Path(get("BATCHREC_HOME", ".batchrec")).expanduser().absolute()
        personalize = get("BATCHREC_PERSONALIZE", EMBEDDED)
        on_aws = personalize == AWS
        dagster_home = get("DAGSTER_HOME")
        prices = get(PRICES_VARIABLE)
        return cls(
            home=home,
            storage=get("BATCHREC_STORAGE", str(home / "storage")),
            personalize=personalize,
            poll_seconds=get_number("BATCHREC_POLL_SECONDS", 30 if on_aws else 0.05),
            busy_seconds=get_number("BATCHREC_BUSY_SECONDS", 300 if on_aws else 5),
            deadline_hours=get_number("BATCHREC_DEADLINE_HOURS", 24),
            role_arn=get("BATCHREC_ROLE_ARN", LOCAL_ROLE_ARN),
            tags=get("BATCHREC_TAGS"),
            log_format=get("BATCHREC_LOG_FORMAT", "text"),
            dagster_home=Path(dagster_home) if dagster_home else None,
            prices=Path(prices).expanduser().absolute() if prices else None,
            region=get_own("region_name") or get("AWS_REGION") or get("AWS_DEFAULT_REGION") or None,
            profile=get_own("profile_name") or get("AWS_PROFILE") or None,
            s3_endpoint=get_own("endpoint_url")
            or get("AWS_ENDPOINT_URL_S3")
            or get("AWS_ENDPOINT_URL")
            or None,
            aws_keys=tuple(sorted(item for item in own_s3.items() if item[0].startswith("aws_"))),
        )

    @property
    def embedded(self) -> bool:
        """Whether Personalize runs in this process."""
        return self.personalize == EMBEDDED

    def _find_problems(self) -> Iterator[str]:
        """A message for each setting that is invalid."""
        if self.storage.startswith("s3://"):
            try:
                bucket, _ = split_uri(self.storage)
            except UserError as error:
                yield f"BATCHREC_STORAGE: {error}"
            else:
                if not BUCKET.fullmatch(bucket):
                    yield (
                        f"BATCHREC_STORAGE is {self.storage!r}: a bucket's name has 3 to 63"
                        " lower-case letters, digits, dots and hyphens"
                    )
        elif "://" in self.storage:
            yield f"BATCHREC_STORAGE is {self.storage!r}: set a folder or s3://bucket/prefix"
        elif Path(self.storage).is_file():
            yield f"BATCHREC_STORAGE is {self.storage}, which is a file: set a folder"
        try:
            parse_tags(self.tags)
        except ValueError as error:
            yield f"BATCHREC_TAGS: {error}"
        if self.prices is not None:
            try:
                Prices.read(self.prices)
            except PricesError as error:
                yield f"{PRICES_VARIABLE}: {error}"
        if self.log_format not in ("text", "json"):
            yield f"BATCHREC_LOG_FORMAT is {self.log_format!r}: set text or json"
        if self.home.is_file():
            yield f"BATCHREC_HOME is {self.home}, which is a file: set a folder"
        if self.dagster_home and not self.dagster_home.is_absolute():
            yield (
                f"DAGSTER_HOME is '{self.dagster_home}': Dagster needs an absolute path, such as"
                f" {self.dagster_home.absolute()}"
            )
        if self.personalize == AWS:
            if not self.storage.startswith("s3://"):
                yield (
                    "BATCHREC_PERSONALIZE=aws reads from S3: set BATCHREC_STORAGE=s3://bucket/prefix"
                )
            if self.role_arn == LOCAL_ROLE_ARN:
                yield (
                    "BATCHREC_PERSONALIZE=aws needs BATCHREC_ROLE_ARN: the role with which"
                    " Personalize reads and writes the bucket"
                )
        elif not self.embedded and not URL.fullmatch(self.personalize):
            yield (
                f"BATCHREC_PERSONALIZE is {self.personalize!r}: set embedded, aws, or the URL of a"
                " Personalize"
            )
        if not ROLE.fullmatch(self.role_arn):
            yield f"BATCHREC_ROLE_ARN is {self.role_arn!r}: set arn:aws:iam::ACCOUNT:role/NAME"

    def make_home(self) -> None:
        """Create BATCHREC_HOME if it is missing, with permissions for this user only.

        An error is ignored here: the step that needs the folder reports it, and `batchrec check`.
        """
        with suppress(OSError):
            durable.make_folders(self.home, 0o700)

    def resources(self) -> dict[str, Any]:
        """Dagster's resources and IO managers by key. Every call returns the same objects."""
        return {resource_key(name): resource for name, resource in _build_resources(self).items()}

    def open_storage(self) -> Storage:
        """The storage of the deployment."""
        resource: StorageResource = _build_resources(self)["storage"]
        return resource.opened

    @property
    def personalize_resource(self) -> PersonalizeResource:
        personalize: PersonalizeResource = _build_resources(self)["personalize"]
        return personalize

    def executor(self) -> dg.ExecutorDefinition:
        """The executor for runs.

        With the embedded Personalize it runs steps in one process, because many take less time than
        to start a process.
        """
        return dg.in_process_executor if self.embedded else dg.multiprocess_executor


# Cached, because Dagster merges the definitions of several pipelines only if they share these
# objects.
@cache
def _build_resources(deployment: Deployment) -> dict[str, Any]:
    s3 = S3ConnectionResource(
        region_name=deployment.region,
        profile_name=deployment.profile,
        endpoint_url=deployment.s3_endpoint,
        **dict(deployment.aws_keys),
    )
    home = deployment.home
    storage = StorageResource(
        root=deployment.storage,
        cache=str(home / "cache"),
        tags=parse_tags(deployment.tags),
        s3=s3,
    )
    personalize = PersonalizeResource(
        endpoint=deployment.personalize,
        home=str(home / "personalize"),
        role_arn=deployment.role_arn,
        prices=str(deployment.prices or ""),
        poll_seconds=deployment.poll_seconds,
        busy_seconds=deployment.busy_seconds,
        deadline_hours=deployment.deadline_hours,
        storage=storage,
    )
    return {
        "storage": storage,
        "personalize": personalize,
        "parquet_io": io_managers.ParquetIOManager(storage=storage),
        "published_io": io_managers.PublishedTableIOManager(storage=storage),
        "interactions_io": io_managers.InteractionsIOManager(storage=storage),
        "items_io": io_managers.ItemsCsvIOManager(storage=storage),
        "users_io": io_managers.UsersCsvIOManager(storage=storage),
        "batch_users_io": io_managers.UsersIOManager(storage=storage),
        "html_io": io_managers.HtmlIOManager(storage=storage),
        "record_io": io_managers.RecordIOManager(storage=storage),
    }
