"""Makes and publishes lists about what people bought last: what goes with it, by similar items.

No batch inference job makes them. Similar items of a person's last order become lines in the form
of a job's, so that they go through the same rules, checks and columns as other lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import polars as pl

from batchrec_dagster.config import fingerprint
from batchrec_dagster.explanations.last_orders import LAST_ORDER, find_last_orders
from batchrec_dagster.personalize.file_formats import MAX_RESULTS, USER_FIELD, scan_interactions
from batchrec_dagster.steps.batch_jobs import SAMPLE, read_counts
from batchrec_dagster.steps.batches import Batch, DividedUsers
from batchrec_dagster.steps.checks import CheckResult, require_passed
from batchrec_dagster.steps.cost import measure_run
from batchrec_dagster.steps.edition_interactions import read_interactions
from batchrec_dagster.steps.errors import StepError
from batchrec_dagster.steps.list_builder import ListCounts, RecommendationTable
from batchrec_dagster.steps.list_rules import RuleInputs, read_rule_inputs
from batchrec_dagster.steps.lists_declaration import ListsDeclaration
from batchrec_dagster.steps.publishing import Publishing, repeat_checks
from batchrec_dagster.steps.recommendation_table import LIST_FACTS, build_table
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.runs import RunFacts
from batchrec_dagster.steps.work import PersonalizeWork, Work
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.list_subjects import ITEMS
from batchrec_dagster.storage.published_table import Edition, TableWriter

# Part of the table's version: raise it when the same data would become another table.
TABLE_VERSION = "1"
# Lists are made for this many users at once.
USERS_AT_ONCE = 20_000


@dataclass(frozen=True)
class PublishedAfterOrder:
    """The published edition and what is known of it."""

    edition: Edition
    table: RecommendationTable
    checks: list[CheckResult]
    outcome: str
    """What this run did, in words."""


@dataclass(frozen=True)
class LocalLines:
    """Lines that are made here, where a table expects the output of a job."""

    lines: Callable[[], Iterator[pl.DataFrame]]

    def pieces(self, read: Callable[[bytes], pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The lines, at least one piece. `read` is for the bytes of a job's output."""
        return self.lines()


def publish_after_order(
    work: PersonalizeWork, declaration: ListsDeclaration, batch_users: pl.LazyFrame, run: RunFacts
) -> PublishedAfterOrder:
    """Make the lists of what goes with each user's last order, and publish them.

    work: of the pipeline narrowed to this list.
    batch_users: the lines of the users' file.
    Raises FailedChecksError, StorageError, StepError.
    """
    similar_edition, similar_items = _read_similar_items(work)
    rule_inputs = read_rule_inputs(work)
    publishing = Publishing(
        work,
        declaration,
        _replace_model(work),
        work.files.batch_users.read_published().version,
        [similar_edition.version, *(rule_inputs.versions if rule_inputs is not None else ())],
    )
    gate = publishing.gate(skip=run.skip_quality_gate)
    if gate.passed:
        finding = "these lists are made of similar_items, so there is no model to measure"
        gate = replace(gate, finding=finding)
    require_passed([gate])
    published = _read_unchanged(work, publishing, gate)
    if published is None:
        with work.storage.local_file(work.files.interactions) as path:
            orders = find_last_orders(
                scan_interactions(path),
                batch_users.select(pl.col(USER_FIELD)).collect(engine="streaming").to_series(),
                work.pipeline.order_settings,
            )
        published = _publish(work, publishing, orders, similar_items, rule_inputs, gate, run)
    return published


def make_lines(orders: pl.DataFrame, similar_items: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """What goes with each order, best first, in the form of the lines of a batch inference job.

    The columns are user_id, items, scores and error. An item's score is the sum of those that it
    has on the lists of the ordered items; where these have none, it is 1 divided by its rank. What
    was ordered is not in the line. There is at least one piece.

    orders: as from `find_last_orders`.
    similar_items: a published table of similar items.
    """
    item = pl.col(ITEMS.item_column)
    scored = similar_items.select(
        "item_id", similar_item=item, value=pl.coalesce(pl.col("score"), 1 / pl.col("rank"))
    )
    users = orders.select(pl.col("user_id").unique(maintain_order=True))
    for piece in users.iter_slices(USERS_AT_ONCE) if users.height else [users]:
        bought = orders.join(piece, on="user_id", how="semi", maintain_order="left")
        results = (
            bought.join(scored, on="item_id")
            .group_by("user_id", "similar_item")
            .agg(pl.col("value").sum())
            .join(
                bought,
                left_on=["user_id", "similar_item"],
                right_on=["user_id", "item_id"],
                how="anti",
            )
            .sort("user_id", "value", "similar_item", descending=[False, True, False])
            .group_by("user_id", maintain_order=True)
            .agg(
                items=pl.col("similar_item").head(MAX_RESULTS),
                scores=pl.col("value").head(MAX_RESULTS),
            )
        )
        yield piece.join(results, on="user_id", how="left", maintain_order="left").select(
            "user_id",
            pl.col("items").fill_null([]).cast(pl.List(pl.String)),
            pl.col("scores").fill_null([]).cast(pl.List(pl.Float64)),
            error=pl.lit(None, dtype=pl.String),
        )


def _publish(
    work: PersonalizeWork,
    publishing: Publishing,
    orders: pl.DataFrame,
    similar_items: pl.LazyFrame,
    rule_inputs: RuleInputs | None,
    gate: CheckResult,
    run: RunFacts,
) -> PublishedAfterOrder:
    """Make the lists and publish them. Raises FailedChecksError, StorageError."""
    # The version is known before the items are read: if these change in between, the next run
    # publishes again.
    version = _compute_version(publishing)
    users = orders.get_column("user_id").unique(maintain_order=True)
    nobody = pl.DataFrame(schema={"user_id": pl.String, "reason": pl.String})
    divided = DividedUsers([Batch("", "", users, "", "")], nobody)
    interactions = read_interactions(work, divided, rule_inputs)
    names = ("item_id", "rank", ITEMS.item_column, "score")
    table_of_items = similar_items.select(names).collect(engine="streaming")
    output = LocalLines(lambda: make_lines(orders, table_of_items))
    with temporary_folder() as folder, TableWriter(folder / "recommendations.parquet") as writer:
        table = build_table(work, [output], divided, interactions, writer, num_results=MAX_RESULTS)
        checks = [gate, *map(_explain_short_lists, table.checks)]
        facts = {
            "root_run": run.root_run,
            **measure_run(work, run, []),
            **asdict(table.counts),
            **table.facts,
            "data_until": interactions.until,
            "exclude_seen": work.pipeline.recommendations.excludes_all_seen,
            # What `batchrec show` needs to know to explain the lists.
            LAST_ORDER: work.pipeline.order_settings.to_json(),
        }
        about = publishing.about(version, run.run, checks, facts)
        about["recipe"] = None
        del about["solution_version_arn"]
        require_passed(checks)
        writer.finish(about)
        edition = publishing.publish(writer.path, gate, skip=run.skip_quality_gate)
    return PublishedAfterOrder(edition, table, checks, "made of similar items")


def _explain_short_lists(check: CheckResult) -> CheckResult:
    """The check, which says what short lists mean where no model was asked for results.

    Few items go with a small order, so that lists are often short. The check warns if most are.
    """
    if check.name == "lists_full":
        users, full = int(check.numbers["users"]), int(check.numbers["full"])
        finding = f"{full:,} of {users:,} users have a full list"
        if full < users:
            finding += "; fewer items go with the last orders of the others"
        return replace(check, passed=2 * full >= users, finding=finding)
    if check.name != "results_enough_for_rules":
        return check
    users, short = int(check.numbers["users"]), int(check.numbers["short"])
    passed = 2 * short <= users
    finding = (
        f"for {short:,} of {users:,} users fewer items go with the last order than a list has,"
        " once the rules have left out what they do; popular items fill these lists"
    )
    if not passed:
        finding += ". Loosen the rules, or let similar_items have longer lists"
    return replace(check, passed=passed, finding=finding, numbers={"users": users, "short": short})


def _read_unchanged(
    work: Work, publishing: Publishing, gate: CheckResult
) -> PublishedAfterOrder | None:
    """The published lists with their checks, if making them again would give the same."""
    edition = publishing.published_edition
    if edition is None or edition.users_dropped:
        return None
    if edition.version != _compute_version(publishing):
        return None
    about = edition.about
    checks = repeat_checks(edition, gate)
    counts = read_counts(ListCounts, about)
    facts = {name: about[name] for name in LIST_FACTS if name in about}
    sample = work.files.table.read_edition(edition).head(SAMPLE).collect(engine="streaming")
    table = RecommendationTable(counts, sample, checks, facts=facts)
    return PublishedAfterOrder(edition, table, [gate, *checks], "unchanged: not made again")


def _compute_version(publishing: Publishing) -> str:
    """The version of the table that is made of what is there now."""
    return fingerprint(*publishing.made_by, TABLE_VERSION)


def _replace_model(work: Work) -> ModelRecord:
    """What stands in the place of a model. Raises StorageError."""
    name = f"after-order/{fingerprint(*work.pipeline.order_settings.fingerprint_parts)}"
    return ModelRecord(name, "", "", work.files.interactions_version(), engine="batchrec")


def _read_similar_items(work: PersonalizeWork) -> tuple[Edition, pl.LazyFrame]:
    """The published similar items. Raises StorageError, and StepError if there are none."""
    pipeline = work.pipeline.whole.similar_items_pipeline
    table = None if pipeline is None else work.for_pipeline(pipeline).files.table
    if table is None or table.current() is None:
        raise StepError("similar_items has published nothing yet: materialize it first")
    return table.read()
