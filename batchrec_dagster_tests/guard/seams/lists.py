"""Lists: candidates and rules in, ranked rows, judgements and outcomes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.list_columns import REASONS
from batchrec_dagster.config.publication import Experiment, Gate
from batchrec_dagster.config.rules import ExcludeSeen, ListRules
from batchrec_dagster.config.solution import Solution
from batchrec_dagster.personalize import conditions, split
from batchrec_dagster.personalize.filters import parse_condition
from batchrec_dagster.personalize.formats import read_output_lines
from batchrec_dagster.personalize.measurements import EMBEDDED_ENGINE, NDCG
from batchrec_dagster.pipeline import personalize_resource
from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster.steps import arms, item_pairs, list_jobs, popular_items, shared_jobs, training
from batchrec_dagster.steps import rules as rules_of_lists
from batchrec_dagster.steps.data_sizes import DataSize, check_not_shrunk
from batchrec_dagster.steps.judge import judge_change
from batchrec_dagster.steps.judge_quality import ModelFacts, judge_quality
from batchrec_dagster.steps.list_checks import check_table
from batchrec_dagster.steps.list_context import ListContext
from batchrec_dagster.steps.list_table import ListTable
from batchrec_dagster.steps.model_records import ModelRecord
from batchrec_dagster.steps.outcomes import MeasuredOutcomes, measure_outcomes, pool_outcomes
from batchrec_dagster.steps.reasons import Reasons, weigh_events
from batchrec_dagster.steps.rule_context import RuleContext
from batchrec_dagster.steps.rules import PreparedRules
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.layout import ListFiles
from batchrec_dagster.storage.list_file import ListWriter
from batchrec_dagster.storage.measured_ndcg import GroupSums
from batchrec_dagster_tests.guard.seams.editions import (
    ALONE,
    make_edition,
    make_groups,
    make_popularity,
    restore,
)


@dataclass(frozen=True)
class RuleData:
    """What rules know of users and items when they are applied."""

    num_results: int
    """How many items a list has."""
    user_ids: Sequence[str]
    interactions: pl.DataFrame
    """USER_ID, ITEM_ID, TIMESTAMP and EVENT_TYPE."""
    items: pl.DataFrame
    """ITEM_ID and the columns of the items."""
    users: pl.DataFrame
    """USER_ID and the columns of the users."""
    popular: Sequence[str] = ()
    """The popular items, the most popular first, which fill lists that are too short."""
    blocked: Sequence[str] = ()
    titled: Sequence[str] | None = None
    """The items with a title; None if lists show no title."""
    now: int = 0
    """The time of the newest interaction, in epoch seconds."""
    today: date = date(2026, 12, 24)
    """The day of the run."""


@dataclass(frozen=True)
class RuledLists:
    """The lists that rules make."""

    table: pl.DataFrame
    """user_id, rank, item_id, score and reason."""
    counts: Mapping[str, int]
    """What the rules did, such as `only removed`, `pin added`, `pin unmet` and `only emptied`; and
    `lists of model`, `short of model`, and the `popular rows` that fill these."""


def apply_rules(
    candidates: Sequence[Mapping[str, Sequence[tuple[str, float | None]]]],
    rules: Mapping[str, Any],
    exclude_seen: Mapping[str, Any] | None,
    data: RuleData,
    *,
    are_popular: bool = False,
) -> RuledLists:
    """The lists that rules make.

    candidates: the items of each user with their scores, best first, in pieces of users.
    rules, exclude_seen: as a pipeline's YAML has them.
    are_popular: whether the candidates are popular items, which newcomers get, not the model's.
    """
    declared = ListRules.model_validate(rules)
    seen = None if exclude_seen is None else ExcludeSeen.model_validate(exclude_seen)
    context = RuleContext(
        num_results=data.num_results,
        user_ids=pl.Series(data.user_ids, dtype=pl.String),
        interactions=data.interactions.lazy(),
        items_had=data.interactions.get_column("ITEM_ID").unique(),
        now=data.now,
        today=data.today,
        items=data.items,
        users=data.users,
        popular=pl.Series(data.popular, dtype=pl.String),
        blocked=pl.Series(data.blocked, dtype=pl.String) if declared.block else None,
        titled=None if data.titled is None else pl.Series(data.titled, dtype=pl.String),
        pinned=[pin.item for pin in declared.pin if pin.item is not None],
    )
    prepared = PreparedRules(declared, seen, context)
    lists = {"members": pl.List(pl.String), "scores": pl.List(pl.Float64)}
    schema = pl.Schema({"subject": pl.String(), **lists})
    pieces = []
    for piece in candidates:
        rows = [
            (user, [item for item, _ in items], [score for _, score in items])
            for user, items in piece.items()
        ]
        lines = pl.DataFrame(rows, schema=schema, orient="row")
        if are_popular:
            lines = lines.with_columns(reason=pl.lit("popular"))
        # In small parts, as many lists are made, and popular items are tried.
        with patch.multiple(rules_of_lists, LISTS_AT_ONCE=2, FIRST_POPULAR=2):
            pieces.append(prepared.apply(lines))
    counts = {
        f"{name} {effect}": count
        for name, effects in prepared.counts.items()
        for effect, count in asdict(effects).items()
        if effect != "rule"
    }
    filled = prepared.filled
    counts |= {"lists of model": filled.of_model, "short of model": filled.short_of_model}
    counts |= {"popular rows": filled.popular_rows, "empty": filled.empty, "seen": filled.seen}
    table = pl.concat(pieces).rename({"subject": "user_id", "member": "item_id"})
    return RuledLists(table, counts)


def find_matches(condition: str, table: pl.DataFrame) -> list[bool]:
    """Which rows of the table meet a condition of a rule, such as `ITEMS.STOCK > 0`."""
    matches: list[bool] = conditions.find_matches(parse_condition(condition), table).to_list()
    return matches


@dataclass(frozen=True)
class MadeList:
    """A table of lists that a batch inference job's output became."""

    rows: pl.DataFrame
    """user_id, rank, item_id and score."""
    refused_by: Sequence[str]
    """The checks that keep it from being published."""
    warnings: Sequence[str]
    """The checks that only warn."""
    failed_users: Sequence[str]
    """Who has no list because Personalize returned an error."""


def make_list(
    lines: Sequence[str],
    users: Sequence[str],
    *,
    num_results: int,
    seen: Sequence[tuple[str, str]] | None = None,
    max_failed_share: float = 0.0,
    lines_at_once: int = 1_000,
) -> MadeList:
    """The lists that the lines of a batch inference job's output become.

    lines: JSON, as Personalize writes it.
    users: whom the job was asked for.
    seen: the users' items, which are left out; None leaves out none.
    lines_at_once: how many lines are read at once.
    """
    schema = {"USER_ID": pl.String, "ITEM_ID": pl.String}
    everyone = pl.Series(users, dtype=pl.String)
    interactions = pl.LazyFrame(seen or [], schema=schema, orient="row")
    items_had = interactions.collect().get_column("ITEM_ID").unique()
    context = RuleContext(num_results, everyone, interactions, items_had, 0, date(2026, 12, 24))
    rules = PreparedRules(ListRules(), None if seen is None else ExcludeSeen(), context)
    settings = {
        "num_results": num_results,
        "max_failed_share": max_failed_share,
        "exclude_seen": seen is not None,
    }
    attributes = {"name": "shop", "ratings": {"source": "r.csv"}, "recommendations": settings}
    pipeline = Pipeline.model_validate(attributes)
    published = pipeline.user_lists[0]
    made_with = ListContext(
        interactions=interactions,
        until=0,
        rules=rules,
        rule_context=context,
        item_columns=None,
        popular=None,
        reasons=None,
    )
    builder = ListTable(published, made_with)
    pieces = [
        read_output_lines("\n".join(lines[start : start + lines_at_once]).encode())
        for start in range(0, max(1, len(lines)), lines_at_once)
    ]
    with TemporaryDirectory() as folder:
        with ListWriter(Path(folder) / "lists.parquet") as writer:
            builder.write(pieces, writer)
        rows = pl.read_parquet(writer.path)
    work: Any = SimpleNamespace(pipeline=pipeline, ensure=PersonalizeLimits())
    checks = check_table(work, published, everyone, builder, num_results)
    return MadeList(
        rows,
        [check.name for check in checks if check.blocks],
        [check.name for check in checks if not (check.passed or check.blocks)],
        builder.failed["subject"].to_list(),
    )


def count_popular_items(
    interactions: pl.DataFrame,
    days: int,
    success: Sequence[str] = (),
    by: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """How many people had each item in the last days, the most popular first: ITEM_ID, popularity
    and, with `by`, group.

    by: the group of each user.
    """
    users = None if by is None else pl.DataFrame({"USER_ID": [*by], "reason": [*by.values()]})
    counted = popular_items.count_popular_items(interactions.lazy(), days, success, by=users)
    return counted.rename({"reason": "group"}, strict=False)


def find_bought_together(
    interactions: pl.DataFrame,
    *,
    within_days: int,
    num_results: int,
    events: Sequence[str] = (),
    events_at_once: int = 50_000,
) -> pl.DataFrame:
    """What people had together with each item: item_id, similar_item_id and score, best first.

    events_at_once: how many interactions are paired at once.
    """
    with (
        patch.object(item_pairs, "EVENTS_AT_ONCE", events_at_once),
        patch.object(item_pairs, "COUNTS_AT_ONCE", events_at_once),
    ):
        return item_pairs.find_bought_together(
            interactions.lazy(), within_days=within_days, most=num_results, events=events
        )


def explain_lists(
    lists: pl.DataFrame,
    interactions: pl.DataFrame,
    *,
    event_weights: Mapping[str, float] = MappingProxyType({}),
    success: Sequence[str] = (),
    titles: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """Why each row is on its list: reason, reason_item, reason_title and reason_event.

    lists: user_id, item_id, score, reason, which has what rules say already, or null, and, in an
        experiment, arm.
    event_weights, success: as a pipeline's solution has them.
    """
    named = None
    if titles is not None:
        named = pl.DataFrame({"item_id": [*titles], "title": [*titles.values()]})
    strengths = weigh_events(Solution(event_weights=dict(event_weights), success=[*success]))
    reasons = Reasons(interactions.lazy(), lists["user_id"].unique().sort(), strengths, named)
    return reasons.add(lists).select(REASONS)


@dataclass(frozen=True)
class Judgement:
    """What the gate says of a model."""

    is_refused: bool
    text: str


def judge_model(
    gate: Mapping[str, float],
    *,
    ndcg: float,
    coverage: float = 0.2,
    popular: float | None = None,
    recent_popular: float | None = None,
    published_ndcg: float | None = None,
    is_published: bool = False,
    is_comparable: bool = True,
    tested_users: int = 200,
    engine: str = "the embedded engine",
    publish_anyway: bool = False,
) -> Judgement:
    """Whether a model's lists may be published.

    popular, recent_popular: the NDCG of the most popular items, of all time and of the last days.
    published_ndcg: that of the model whose lists are published; None if nothing is.
    is_published: whether that is the same model.
    is_comparable: whether it was measured on the same kind of interactions.
    engine: what measured it. The embedded engine says on how many users.
    """
    popularity = None if popular is None else make_popularity(popular, users=tested_users)
    if recent_popular is not None and recent_popular > (popular or 0.0):
        popularity = make_popularity(recent_popular, 0.01, tested_users, days=30)
    is_embedded = engine == EMBEDDED_ENGINE
    metrics = {NDCG: ndcg, "coverage": coverage}
    model = ModelRecord(
        made_of={},
        version="new",
        solution_version_arn="arn:new",
        data_version="data",
        metrics=metrics,
        engine=engine,
        groups=make_groups(ndcg, 0.01, tested_users) if is_embedded else None,
        measured_popularity=popularity,
    )
    published = None
    if published_ndcg is not None:
        published = make_edition(
            {
                "solution_version_arn": "arn:new" if is_published else "arn:old",
                "measured_on": "all" if is_comparable else "good ratings",
                "metrics": {NDCG: published_ndcg},
            }
        )
    facts = ModelFacts(model, "all", published, publishes_anyway=publish_anyway)
    check = judge_quality(facts, Gate(**gate))
    return Judgement(check.blocks, check.text)


def judge_next_model(before: Mapping[str, float], now: Mapping[str, float]) -> tuple[bool, str]:
    """Whether that of the published lists was better, so that somebody should look; and the text.

    before, now: the NDCG@25 of each tested user, by their id.
    """
    groups = []
    for ndcg in (before, now):
        users = split.assign_groups(pl.Series([*ndcg]))
        counts, sums = split.sum_groups(users, np.array([*ndcg.values()]))
        groups.append(GroupSums(users=tuple(counts), ndcg=tuple(sums)))
    model = ModelRecord(
        made_of={},
        version="new",
        solution_version_arn="arn:new",
        data_version="data",
        metrics={NDCG: fmean(now.values())},
        groups=groups[1],
    )
    facts = {"solution_version_arn": "arn:old", "measured_on": "all", "groups": groups[0]}
    finding = judge_change(ModelFacts(model, "all", make_edition(facts)))
    return not finding.passed, finding.text


@dataclass(frozen=True)
class Sizes:
    """How much there is of a part of the data."""

    rows: int
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many different users, for example."""
    filled: Mapping[str, int] = field(default_factory=dict)
    """How many rows have a value, by setting of the column."""
    events: Mapping[str, int] = field(default_factory=dict)
    """How many rows there are of each type of event."""


def _make_size(sizes: Sizes) -> DataSize:
    return DataSize(
        rows=sizes.rows, distinct=sizes.counts, events=sizes.events, values=sizes.filled
    )


def judge_sizes(
    sizes: Sizes, published: Sizes, max_shrink: float, *, publish_anyway: bool = False
) -> Judgement:
    """Whether the data may be imported, compared with those that the published lists are of."""
    check = check_not_shrunk(
        "items",
        _make_size(sizes),
        _make_size(published),
        "edition 7",
        max_shrink,
        how_to_skip="",
        skip=publish_anyway,
    )
    return Judgement(check.blocks, check.text)


def assign_arm(user: str, experiment: Mapping[str, Any]) -> str:
    """The arm of a user, `model` or `control`. experiment: as a pipeline's YAML has it."""
    return arms.assign_arm(user, Experiment.model_validate(experiment))


@dataclass(frozen=True)
class Effect:
    """What a user does in a day in the arms of an experiment. Intervals are of 95 %."""

    measure: str
    model: float
    control: float
    difference: tuple[float, float]
    lift: tuple[float, float] | None


@dataclass(frozen=True)
class ExperimentSummary:
    """What an experiment shows."""

    name: str
    success: str
    model_users: int
    control_users: int
    is_uneven: bool
    effects: Sequence[Effect]


@dataclass
class ListHistory:
    """Lists that were published one after the other, and what people did then."""

    folder: Path
    """Empty at first."""
    success: Sequence[str] = ()
    """The types of events that count alone."""

    @property
    def _work(self) -> Work:
        columns = {"user": "u", "item": "i", "timestamp": "t"}
        if self.success:
            columns |= {"event_type": "e", "event_value": "v"}
        pipeline = Pipeline.model_validate(
            {
                "name": "shop",
                "ratings": {"source": "ratings.csv", "columns": columns},
                "solution": {"success": [*self.success]},
            }
        )
        return Work(pipeline, Storage(root=str(self.folder), s3=S3Connection()))

    @property
    def _files(self) -> ListFiles:
        work = self._work
        return work.files_of(work.pipeline.user_lists[0])

    def publish(
        self,
        lists: Mapping[str, Sequence[str]],
        *,
        at: int,
        data_until: int,
        exclude_seen: bool = True,
        experiment: Mapping[str, Any] | None = None,
    ) -> None:
        """Publish the next edition: the items of each user.

        at: the time of the publication, in epoch seconds.
        data_until: the time of the newest interaction that the lists are made of.
        """
        table = self._files.editions
        rows = [
            (user, rank, item)
            for user, items in lists.items()
            for rank, item in enumerate(items, 1)
        ]
        schema = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}
        number = table.next_number()
        about: dict[str, Any] = {
            "number": number,
            "version": f"v{number}",
            "made_at": datetime.fromtimestamp(at, UTC).isoformat(),
            "data_until": data_until,
            "exclude_seen": exclude_seen,
        }
        if experiment is not None:
            about["experiment"] = Experiment.model_validate(experiment).model_dump()
        with TemporaryDirectory() as folder:
            with ListWriter(Path(folder) / "lists.parquet") as writer:
                writer.write(pl.DataFrame(rows, schema=schema, orient="row").to_arrow())
                writer.finish(make_edition(about))
            table.publish(writer.path, 9, ALONE)

    def roll_back(self, *, at: int) -> None:
        """Make the edition before the live one live again, at this time."""
        editions = self._files.editions
        restore(editions, editions.older()[0], datetime.fromtimestamp(at, UTC))

    def drop_kept_editions(self) -> None:
        """Delete all editions but the live one, as retention does in the end."""
        store = self._work.storage.store
        for edition in store.list(self._files.editions.history):
            store.delete(edition.uri)

    def measure(self, interactions: pl.DataFrame) -> pl.DataFrame:
        """The table of outcomes.

        interactions: USER_ID, ITEM_ID, TIMESTAMP, with `success` EVENT_TYPE and EVENT_VALUE, too.
        """
        return self._measure(interactions).table

    def pool(self, interactions: pl.DataFrame) -> tuple[float, float, float, int] | None:
        """By how much more people the lists of all editions reached than popular items would have,
        with the ends of the 95% interval, and how many were active; None if nobody can say."""
        sums = self._measure(interactions).sums
        behaviour = pool_outcomes(sums, self.success)
        if behaviour is None:
            return None
        return behaviour.gain, behaviour.low, behaviour.high, behaviour.users

    def compare_arms(self, interactions: pl.DataFrame) -> ExperimentSummary | None:
        """What the newest experiment shows; None if there is none."""
        result = self._measure(interactions).experiment
        if result is None:
            return None
        effects = [
            Effect(
                effect.measure,
                effect.model.value,
                effect.control.value,
                (effect.difference.low, effect.difference.high),
                None if effect.lift is None else (effect.lift.low, effect.lift.high),
            )
            for effect in result.effects
        ]
        return ExperimentSummary(
            result.name,
            result.success,
            result.model_users,
            result.control_users,
            result.uneven,
            effects,
        )

    def _measure(self, interactions: pl.DataFrame) -> MeasuredOutcomes:
        work = self._work
        work.storage.store.put(work.files.interactions, interactions.write_csv().encode())
        return measure_outcomes(work, work.pipeline.user_lists[0])


@dataclass(frozen=True)
class PersonalizeLimits:
    """How many results a job gives at most, and how many interactions of a user a filter sees."""

    max_results: int = 500
    filter_interactions: int = 100


def count_results(
    attributes: Mapping[str, Any], *, users: int, history: int, some_untitled: bool = False
) -> int:
    """How many results a job for all lists of a pipeline is asked for, for each user.

    history: how many items the user with the most had.
    some_untitled: whether lists show titles, which some items do not have.
    """
    pipeline = Pipeline.model_validate(attributes)
    limits: Any = PersonalizeLimits()
    return max(
        list_jobs.count_results_of_list(
            limits, published, users, history, leaves_out_untitled=some_untitled
        )
        for published in pipeline.user_lists
    )


def group_lists(attributes: Mapping[str, Any]) -> list[list[str]]:
    """The names of the lists that share a batch inference job, for each job.

    attributes: those of a pipeline with `lists`.
    """
    pipeline = Pipeline.model_validate(attributes)
    groups = shared_jobs.group_lists(pipeline)
    return [[published.name for published in group] for group in groups]


@contextmanager
def short_filter_history(interactions: int) -> Iterator[None]:
    """Runs take it that Personalize's filter sees this many interactions of a user, as on AWS."""
    with patch.object(personalize_resource, "ALL_INTERACTIONS", interactions):
        yield


@contextmanager
def paid_personalize() -> Iterator[None]:
    """The embedded Personalize costs what AWS's does."""
    with patch.object(PersonalizeResource, "on_aws", property(lambda self: True)):
        yield


@contextmanager
def clock_of_trainings(**time: float) -> Iterator[None]:
    """Runs think it is later by this time, such as `days=6`, when they ask for a model's age."""
    later = datetime.now(UTC) + timedelta(**time)
    with patch.object(training, "now", lambda: later):
        yield
