"""Names, configurations, filters and output files of the jobs in Personalize."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import polars as pl

from batchrec_dagster.config import fingerprint
from batchrec_dagster.errors import Refused, UserError
from batchrec_dagster.personalize import ensure as api
from batchrec_dagster.personalize.errors import PersonalizeError
from batchrec_dagster.personalize.file_formats import OUTPUT_SUFFIX
from batchrec_dagster.personalize.prices import Cost
from batchrec_dagster.personalize.recipes import EVENT_VALUE_THRESHOLD, EVENT_WEIGHTS, FEATURES
from batchrec_dagster.personalize.resource_kinds import FILTER, ResourceKind
from batchrec_dagster.steps.checks import require_passed
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.edition import Finding
from batchrec_dagster.storage.layout import BatchJob
from batchrec_dagster.storage.list_file import ListWriter
from batchrec_dagster.storage.objects import ObjectInfo
from batchrec_dagster.storage.progress import Progress


def build_name_stem(name: str, version: str, force_run: str | None = None) -> str:
    """What the name of a job starts with: the pipeline and the version of its data.

    force_run: id of a run that forces a job of its own; its retries find that job.
    """
    # A name of 32 characters, a number of three digits: the whole stays within Personalize's 63.
    start = f"{name}-{version[:12]}"
    return f"{start}-{force_run[:8]}" if force_run else start


def measure_job_seconds(job: api.ReadyResource) -> float:
    """How many seconds the job took, in whichever run that was."""
    times = job.description
    seconds: float = (times["lastUpdatedDateTime"] - times["creationDateTime"]).total_seconds()
    return seconds


def build_solution_name(dataset_group: str, recipe: str, hyperparameters: Mapping[str, str]) -> str:
    """The name of the solution for these settings.

    Other settings need another solution, because a solution cannot be changed.
    """
    return f"{dataset_group}-{fingerprint_solution(recipe, hyperparameters)}"


def fingerprint_solution(recipe: str, hyperparameters: Mapping[str, str]) -> str:
    """What the name of the solution for these settings ends with."""
    return fingerprint(recipe, hyperparameters)[:8]


def build_solution_config(hyperparameters: Mapping[str, str]) -> dict[str, Any]:
    """CreateSolution's `solutionConfig`, with each hyperparameter where Personalize wants it."""
    not_of_algorithm = {*FEATURES, EVENT_WEIGHTS, EVENT_VALUE_THRESHOLD}
    algorithm = {key: text for key, text in hyperparameters.items() if key not in not_of_algorithm}
    config: dict[str, Any] = {"algorithmHyperParameters": algorithm}
    features = {key: text for key, text in hyperparameters.items() if key in FEATURES}
    if features:
        config["featureTransformationParameters"] = features
    threshold = hyperparameters.get(EVENT_VALUE_THRESHOLD)
    if EVENT_WEIGHTS in hyperparameters:
        minimum = {} if threshold is None else {"eventValueThreshold": float(threshold)}
        weights = json.loads(hyperparameters[EVENT_WEIGHTS]).items()
        events = [{"eventType": kind, "weight": weight, **minimum} for kind, weight in weights]
        config["eventsConfig"] = {"eventParametersList": events}
    elif threshold is not None:
        config["eventValueThreshold"] = threshold
    return config


def describe_outcome(job: api.ReadyResource, action: str) -> str:
    """`imported` if this run did it, else `unchanged: not imported again`.

    action: what the job does, as a participle: imported.
    """
    return action if job.created else f"unchanged: not {action} again"


# What to do about an output of no use.
NEXT_RUN = "Run again: the next run starts a new job"
# The name of the object in a job's folder that says why its output is of no use.
DAMAGED = "damaged.txt"
# How many bytes of a file are read at once: tens of thousands of users' lines.
PIECE_BYTES = 16 * 1024 * 1024
# How many rows of a table the UI shows.
SAMPLE = 5
# Of the error of a line, so many characters are kept.
MAX_ERROR_LENGTH = 300


@dataclass(frozen=True)
class JobRequest:
    """A job that serves this request: that of an earlier run, or a new one."""

    ensure: api.Ensure
    kind: ResourceKind
    stem: str
    """What the job's name starts with. It says what the job is made from."""
    create: Callable[[str], Mapping[str, Any]]
    """Returns Create's arguments for a name, besides the name and tags."""
    usable: Callable[[api.Description], bool]
    """Returns False for a job to reject, for example if its results are gone."""
    within: Mapping[str, str]
    """List's filter, for example a dataset."""
    cost: Cost
    """What a new job costs."""
    among_others: bool = False
    """Whether jobs for other requests are in use at the same time, and do not replace it."""

    def find(self) -> str | None:
        """The ARN of the job that `start` would adopt; None if it would create a new one."""
        return self.ensure.find_numbered(
            self.kind, self.stem, self.usable, among_others=self.among_others, **self.within
        )

    def start(self) -> api.StartedResource:
        """The job, which is created unless there is one."""
        return self.ensure.start_numbered(
            self.kind,
            self.stem,
            self.create,
            self.usable,
            among_others=self.among_others,
            **self.within,
        )


def prepare_batch_job(
    work: PersonalizeWork,
    kind: ResourceKind,
    request: Mapping[str, Any],
    job: BatchJob,
    cost: Cost,
    *versions: str,
) -> JobRequest:
    """The batch job for the request: a new one, or that of an earlier run.

    job: which folder its output is in.
    cost: what a new job costs.
    versions: the versions of what the request reads.
    """

    def create(name: str) -> dict[str, Any]:
        output = {
            "s3DataDestination": {"path": work.files.uri(work.pipeline.keys.job_output(job, name))}
        }
        return {**request, "jobOutput": output}

    return JobRequest(
        work.ensure,
        kind,
        f"{work.pipeline.name}-{fingerprint(request, *versions)[:12]}",
        create,
        usable=lambda job: JobOutput(work.storage, job).is_usable(),
        within={"solutionVersionArn": request["solutionVersionArn"]},
        cost=cost,
        among_others=bool(work.pipeline.lists),
    )


@dataclass(frozen=True)
class JobOutput:
    """What a batch job wrote, or will write."""

    storage: Storage
    job: api.Description
    """Describe's answer for the job."""

    @property
    def folder(self) -> str:
        """The URI of the folder, with its final slash."""
        folder: str = self.job["jobOutput"]["s3DataDestination"]["path"]
        return folder

    def files(self) -> list[ObjectInfo]:
        """The files, in order."""
        files = self.storage.store.list(self.folder)
        return [file for file in files if file.uri.endswith(OUTPUT_SUFFIX)]

    def is_usable(self) -> bool:
        """Whether a finished job's files are still there, and neither empty nor known to be
        damaged.

        True for a job under way, which will write them.
        """
        if self.job["status"] != api.ACTIVE:
            return True
        if self.storage.store.head(self.folder + DAMAGED) is not None:
            return False
        sizes = [file.size for file in self.files()]
        return bool(sizes) and all(sizes)

    def pieces(self, read: Callable[[bytes], pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """All lines, in order, in pieces. There is at least one piece, which may be empty.

        read: parses the bytes of a piece, in a thread, while the piece before it is in use.
        Raises UserError, and UserError if there is no file, or a damaged one.
        """
        return read_ahead(self._read_pieces(read))

    def _read_pieces(self, read: Callable[[bytes], pl.DataFrame]) -> Iterator[pl.DataFrame]:
        files = self.files()
        if not files:
            raise UserError(
                f"the batch job left no {OUTPUT_SUFFIX} file in {self.folder}. {NEXT_RUN}"
            )
        for file in files:
            try:
                for piece in split_at_lines(self.storage.store.chunks(file.uri)):
                    yield read(piece)
            except ValueError as error:
                where = self.storage.where(file.uri)
                reason = f"{where} is damaged: {str(error).partition(chr(10))[0]}"
                self.mark_damaged(reason)
                raise UserError(f"{reason}. {NEXT_RUN}") from error

    def mark_damaged(self, reason: str) -> None:
        """Note that this output is of no use, so that no run adopts its job."""
        self.storage.store.put(self.folder + DAMAGED, f"{reason}\n".encode())


def require_usable(output: JobOutput | None, checks: Sequence[Finding]) -> None:
    """Raise Refused if one of the checks blocks.

    If it blocks because of the output, that is marked, so that the next run starts a new job.

    output: None if no job was needed.
    """
    failed = [check for check in checks if check.blocks and check.makes_output_unusable]
    if output is None or not failed:
        require_passed(checks)
        return
    output.mark_damaged("; ".join(check.text for check in failed))
    folder = output.storage.where(output.folder)
    raise Refused(
        [
            replace(check, text=f"{folder}: {check.text}. {NEXT_RUN}") if check in failed else check
            for check in checks
        ]
    )


def fingerprint_output(output: JobOutput) -> str:
    """A fingerprint of the files that the job wrote, without reading them."""
    return fingerprint(*((file.uri, file.size, file.etag) for file in output.files()))


@dataclass
class AnswerCounts:
    """What is counted of the lines that a table is made from."""

    answered: list[pl.Series] = field(default_factory=list)
    """The names of the users or segments that the lines answer, in pieces."""
    failed: list[pl.DataFrame] = field(default_factory=list)
    """The same names, and the errors, of the lines that have one. The columns are name, error."""
    repeated: int = 0
    """How many members are repeated within a list or a segment."""

    @property
    def failed_lines(self) -> int:
        """How many lines have an error."""
        return sum(part.height for part in self.failed)

    @property
    def first_failure(self) -> tuple[str, str] | None:
        """The name and the error of the first line that has one."""
        return next((part.row(0) for part in self.failed if part.height), None)


C = TypeVar("C")


@dataclass(frozen=True)
class WrittenTable(Generic[C]):
    """A written table of lists: its numbers, first rows and checks."""

    counts: C
    """What is in it."""
    sample: pl.DataFrame
    checks: list[Finding]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More about the lists, for their metadata."""


class OutputTable(ABC):
    """Builds a table from the lines of a job's output, and counts what its checks need.

    A line with an error gives no rows.

    key: the name of the user or the segment that a line answers, from the line's columns.
    item_columns: the column item_id, and what the table has of each item; None for ids alone.
    """

    def __init__(self, key: pl.Expr, item_columns: pl.DataFrame | None) -> None:
        self.item_columns = item_columns
        self.rows = 0
        self.sample = pl.DataFrame()
        self._key = key
        self._answers = AnswerCounts()

    def write(self, pieces: Iterable[pl.DataFrame], table: ListWriter) -> None:
        """Write the table's rows of these lines.

        pieces: at least one, as `file_formats` reads them.
        """
        for lines in pieces:
            table.write(self.add(lines).to_arrow(compat_level=pl.CompatLevel.oldest()))

    def add(self, lines: pl.DataFrame) -> pl.DataFrame:
        """The table's rows of these lines, once both are counted."""
        self._count_lines(lines)
        table = self._build_rows(lines.filter(pl.col("error").is_null()))
        first = table.head(SAMPLE)
        self.sample = pl.concat([self.sample, first]).head(SAMPLE) if self.rows else first
        self.rows += table.height
        return table

    @abstractmethod
    def _build_rows(self, lines: pl.DataFrame) -> pl.DataFrame:
        """The table's rows of these lines; counts what only this kind of table has."""

    def _count_lines(self, lines: pl.DataFrame) -> None:
        answers = lines.select(name=self._key, error=pl.col("error").str.slice(0, MAX_ERROR_LENGTH))
        self._answers.answered.append(answers.get_column("name"))
        self._answers.failed.append(answers.filter(pl.col("error").is_not_null()))


def explode_results(lines: pl.DataFrame, subject: str) -> pl.DataFrame:
    """The results of these lines as rows of the subject, result and score, in the same order.

    The score is null where Personalize gave none.

    lines: the subject's column, and items and scores (best first).
    subject: the column of those who have the lists, such as user_id.
    """
    nulls = pl.col("items").list.eval(pl.lit(None, dtype=pl.Float64))
    # One score for each item, however many there are.
    scores = pl.coalesce(pl.col("scores").list.concat(nulls), nulls).list.head(
        pl.col("items").list.len()
    )
    return (
        lines.filter(pl.col("items").list.len() > 0)
        .select(subject, result="items", score=scores)
        .explode("result", "score")
    )


def log_progress(pieces: Iterable[pl.DataFrame], progress: Progress) -> Iterator[pl.DataFrame]:
    """Yield the same pieces, and log after the use of each how many rows there were so far."""
    for piece in pieces:
        yield piece
        progress.add(piece.height)


def read_ahead(pieces: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield the same pieces. A thread makes the next one while one is in use."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        next_piece = thread.submit(next, pieces, None)
        while (piece := next_piece.result()) is not None:
            next_piece = thread.submit(next, pieces, None)
            yield piece


def split_at_lines(chunks: Iterable[bytes], size: int = PIECE_BYTES) -> Iterator[bytes]:
    """Yield the same bytes in pieces of about `size` bytes that end with a line.

    Without any bytes, yield one empty piece.
    """
    pending, pending_size, has_yielded = [], 0, False
    for chunk in chunks:
        pending.append(chunk)
        pending_size += len(chunk)
        end = chunk.rfind(b"\n") + 1
        if pending_size >= size and end:
            yield b"".join([*pending[:-1], chunk[:end]])
            pending, pending_size, has_yielded = [chunk[end:]], len(chunk) - end, True
    if pending_size or not has_yielded:
        yield b"".join(pending)


@dataclass(frozen=True)
class FilterDeclaration:
    """A filter, as a setting declares it."""

    setting: str
    """The setting, such as recommendations.filter."""
    expression: str
    ending: str
    """What its name in a dataset group ends with."""


def declare_filter(setting: str, expression: str) -> FilterDeclaration:
    """The filter for the expression.

    A filter cannot be changed: another expression needs another filter.
    """
    return FilterDeclaration(setting, expression, fingerprint(expression)[:8])


def ensure_filter(ensure: api.Ensure, model: ModelRecord, declaration: FilterDeclaration) -> str:
    """The ARN of the filter, which is created in the model's dataset group if there is none.

    Raises PersonalizeError, which names the setting, if Personalize rejects it.
    """
    group = model.dataset_group_arn
    try:
        return ensure.find_or_create(
            FILTER,
            f"{model.dataset_group_name}-{declaration.ending}",
            {"datasetGroupArn": group, "filterExpression": declaration.expression},
            datasetGroupArn=group,
        ).arn
    except PersonalizeError as error:
        raise PersonalizeError(f"{declaration.setting}: {error}", error.details) from error
