"""The users, items or segments that get a list, and their division by the kind of list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from batchrec_dagster.config import PublishedList, fingerprint
from batchrec_dagster.config.lists import PopularBy
from batchrec_dagster.config.published_list import Subject
from batchrec_dagster.config.similar_items import SimilarItems
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.api import BATCH_INFERENCE_JOB, BATCH_SEGMENT_JOB, ResourceKind
from batchrec_dagster.personalize.formats import ITEM_FIELD, USER_FIELD
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
from batchrec_dagster.preparation.id_lists import require_within_limits
from batchrec_dagster.steps.arms import MODEL, assign_arms
from batchrec_dagster.steps.batch_users import find_newcomers
from batchrec_dagster.steps.items import read_item_ids, read_item_list
from batchrec_dagster.steps.popular_items import POPULAR, read_user_groups
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.durable import compute_version
from batchrec_dagster.storage.edition import Finding, Numbers, watch_unless
from batchrec_dagster.storage.layout import BatchJob, ListKeys

# An item's list says little if fewer people than this had the item: the recipe aws-sims leaves out
# pairs of items that fewer people had.
ENOUGH_PEOPLE = 3
# The number of missing ids that a finding names.
MAX_IDS_NAMED = 3
# The kind of batch job for each subject. It names the folders of the job's lines and its outputs.
JOB_FOLDERS: Mapping[Subject, BatchJob] = {
    "user": "batch_inference",
    "item": "batch_similar_items",
    "segment": "batch_segments",
}
JOB_KINDS: Mapping[Subject, ResourceKind] = {
    "user": BATCH_INFERENCE_JOB,
    "item": BATCH_INFERENCE_JOB,
    "segment": BATCH_SEGMENT_JOB,
}
NO_POPULAR_LISTS = pl.DataFrame(schema={"subject": pl.String, "reason": pl.String})


@dataclass(frozen=True)
class JobLines:
    """The lines that a batch job answers. Each line is a user, an item or a segment."""

    ids: pl.Series
    uri: str
    """The URI of the file of lines."""
    version: str
    """The version of the file's content."""


@dataclass(frozen=True)
class Requested:
    """The users, items or segments that should get a list."""

    ids: pl.Series
    """The distinct ids, in order."""
    version: str
    """A version that changes when the ids change."""
    findings: tuple[Finding, ...] = ()
    """The findings about the ids, before there are lists."""


@dataclass(frozen=True)
class Divided:
    """The requested users, items or segments, divided by the kind of list that they get."""

    of_model: JobLines
    """The users, items or segments that get a list from the model."""
    popular: pl.DataFrame = field(default_factory=lambda: NO_POPULAR_LISTS)
    """The users who get popular items instead of a list from the model.

    The columns are subject and reason. The reason names the group of users with whom the items are
    popular."""
    newcomers: int | None = None
    """The number of users without interactions; None if it was not counted."""

    @property
    def ids(self) -> pl.Series:
        """The ids of all users, items or segments that get a list."""
        return pl.concat([self.of_model.ids.alias("subject"), self.popular.get_column("subject")])


def read_requested(work: Work, published: PublishedList, interactions: pl.LazyFrame) -> Requested:
    """Return the users, items or segments that should get a list.

    These are the users in the file of the list's users, the items of the declared source or of the
    interactions, or the declared segments. Raises UserError.
    """
    pipeline = published.pipeline
    if published.subject == "item":
        assert pipeline.similar_items is not None
        return _read_items(work, pipeline.similar_items, interactions)
    if published.subject == "segment":
        assert pipeline.segments is not None
        queries = pipeline.segments.queries
        return Requested(pl.Series("subject", queries), fingerprint(queries))
    uri = work.files.uri(published.users_key)
    with work.storage.local_file(uri) as path:
        users = pl.read_ndjson(path).get_column(USER_FIELD).alias("subject")
    return Requested(users, work.files.record_version(published.users_record))


def _read_items(work: Work, settings: SimilarItems, interactions: pl.LazyFrame) -> Requested:
    """Read the items of the declared source, or all items of the interactions if there is none.

    Raises UserError.
    """
    people = (
        interactions.group_by(item=ITEM_ID)
        .agg(people=pl.col(USER_ID).n_unique())
        .collect(engine="streaming")
    )
    items_with_people = people.get_column("item")
    ids = items_with_people.sort()
    if settings.items is not None:
        ids = read_item_list(work, settings.items, "similar_items.items")
        if not len(ids):
            raise UserError("similar_items.items has no items: correct its rows, or leave it out")
    unknown = ids.filter(~ids.is_in(items_with_people.implode()))
    if len(unknown) and work.pipeline.items is not None:
        unknown = unknown.filter(~unknown.is_in(read_item_ids(work).implode()))
    enough = people.filter(pl.col("people") >= ENOUGH_PEOPLE).get_column("item")
    few = len(ids) - int(ids.is_in(enough.implode()).sum())
    finding = check_requested_items_known(len(ids), few, unknown)
    return Requested(ids.alias("subject"), fingerprint(ids.to_list()), (finding,))


def divide(work: Work, published: PublishedList, requested: Requested) -> Divided:
    """Divide the requested users between lists of the model, lists of popular items, and no list.

    Newcomers, the users without interactions, get the list that the setting `newcomers` asks for.
    The control arm of an experiment gets popular items or no list. If the control arm gets no list,
    its newcomers get no list either. All other users get a list of the model.

    Items and segments always get a list of the model. Raises UserError, for example if the model
    has no user to make lists for.
    """
    experiment, policy = published.experiment, published.settings.newcomers
    users = requested.ids
    everybody = JobLines(users, work.files.uri(published.users_key), requested.version)
    if published.subject != "user":
        return Divided(_write_lines(work, published, users))
    if not published.divides_users:
        return Divided(everybody)
    has_model = pl.lit(value=True)
    table = requested.ids.to_frame()
    reason = pl.lit(None, dtype=pl.String)
    if experiment is not None:
        table = table.with_columns(assign_arms(users, experiment))
        has_model = pl.col("arm") == MODEL
        if experiment.control == "popular":
            reason = pl.when(~has_model).then(pl.lit(POPULAR))
    newcomers = None
    if policy is not None:
        is_new = find_newcomers(work, users)
        newcomers = int(is_new.sum())
        table = table.with_columns(is_new=is_new)
        own_reason = pl.lit(None if policy == "leave_out" else POPULAR, dtype=pl.String)
        if isinstance(policy, PopularBy):
            groups = read_user_groups(work, published).unique(USER_ID, keep="first")
            groups = groups.select(subject=USER_ID, group="reason")
            table = table.join(groups, on="subject", how="left", maintain_order="left")
            own_reason = pl.col("group").fill_null(POPULAR)
        is_served = has_model
        if experiment is None or experiment.control != "none":
            is_served = pl.lit(value=True)
        reason = pl.when(pl.col("is_new") & is_served).then(own_reason).otherwise(reason)
        has_model &= ~pl.col("is_new")
    table = table.with_columns(reason=reason, has_model=has_model)
    popular = table.select("subject", "reason").drop_nulls("reason")
    of_model = table.filter("has_model").get_column("subject")
    if len(of_model) == len(users):
        return Divided(everybody, popular, newcomers)
    if not len(of_model):
        raise UserError(
            f"the model has no user to make lists for: all {len(users):,} are in the control of the"
            " experiment or have no interactions. Set a lower experiment.control_share, or omit"
            f" {published.setting}.newcomers"
        )
    return Divided(_write_lines(work, published, of_model), popular, newcomers)


def _write_lines(work: Work, published: PublishedList, ids: pl.Series) -> JobLines:
    """Write the job's lines for these ids, and return the lines. Raises UserError."""
    field = ITEM_FIELD
    key = published.keys.job_input(JOB_FOLDERS[published.subject])
    if published.subject == "user":
        field, key = USER_FIELD, locate_model_users(published)
    elif published.subject == "segment":
        segments = published.pipeline.segments
        assert segments is not None
        field = segments.query_field
    content = ids.alias(field).to_frame().write_ndjson().encode()
    require_within_limits(len(ids), len(content))
    uri = work.files.uri(key)
    work.storage.store.put(uri, content)
    return JobLines(ids, uri, compute_version([content]))


def locate_model_users(published: PublishedList) -> str:
    """Return the storage key of the file of users who get a list from the model.

    The file exists only if other users get popular items or no list. Lists that share a batch job
    share the file.
    """
    is_shared = published.experiment is None and not published.has_own_users
    keys = ListKeys(published.pipeline.name) if is_shared else published.keys
    return keys.model_users


def check_requested_items_known(items: int, few: int, unknown: pl.Series) -> Finding:
    """Check that all requested items are known; a failure only warns.

    items: the number of requested items.
    few: the number of requested items that too few people had for a good list. The text gives
        this number, but the check does not fail because of it.
    unknown: the ids that are neither in the interactions nor in the items file.
    """
    text = (
        f"{few:,} of {items:,} items were had by fewer than {ENOUGH_PEOPLE} people, so their lists"
        " say little"
    )
    if len(unknown):
        text += (
            f"; {len(unknown):,} are neither in the interactions nor in the items file:"
            f" {list_ids(unknown.head(MAX_IDS_NAMED), len(unknown))}. Check similar_items.items"
        )
    numbers: Numbers = {"items": items, "few": few, "unknown": len(unknown)}
    headline = f"{len(unknown):,} requested items are unknown" if len(unknown) else ""
    return Finding("requested_items_known", watch_unless(not len(unknown)), text, headline, numbers)


def list_ids(first: Iterable[object], count: int) -> str:
    """Return a text with the first few ids, and with the number of further ids if there are any.

    first: the ids to name, at most MAX_IDS_NAMED.
    count: the number of all ids.
    """
    listed = ", ".join(map(repr, first))
    return listed if count <= MAX_IDS_NAMED else f"{listed} and {count - MAX_IDS_NAMED:,} more"
