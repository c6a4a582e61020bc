"""What rules cost in NDCG, by what people did since the last edition was made.

The output of the last edition's job is the model's longer lists, before rules, of data that ended
when they were made. Each rule is applied to them alone, and all rules are, with what was known
then. These lists and those without rules are compared with what the same people chose since. No
model has seen that, but people may have seen the lists, which favours the rules of that edition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import polars as pl
from botocore.exceptions import ClientError

from batchrec_dagster.personalize.ensure import ACTIVE
from batchrec_dagster.personalize.file_formats import read_inference
from batchrec_dagster.personalize.resource_kinds import BATCH_INFERENCE_JOB
from batchrec_dagster.personalize.schemas import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.rules.catalogue import Floats
from batchrec_dagster.rules.context import RuleContext
from batchrec_dagster.rules.prepared import PreparedRules
from batchrec_dagster.rules.settings import ExcludeSeen, ListRules
from batchrec_dagster.steps.batch_jobs import PIECE_BYTES, JobOutput
from batchrec_dagster.steps.popular_items import count_popular_items
from batchrec_dagster.steps.rejected_outputs import RejectedOutputsError
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.published_table import Edition

# Fewer people tell too little, and more hardly anything new.
LEAST_USERS, MOST_USERS = 100, 5_000
# About so many bytes of the job's output are parsed, in pieces from all over it.
MOST_BYTES = 8 * PIECE_BYTES
# Standard errors from a mean to the ends of its 95% interval.
INTERVAL = 1.96


@dataclass(frozen=True)
class Variant:
    """Some of the rules, and what counts as seen with them."""

    rules: ListRules
    exclude_seen: ExcludeSeen | None


def measure_rule_costs(
    work: PersonalizeWork,
    context: RuleContext,
    interactions: pl.LazyFrame,
    edition: Edition | None,
    days: int | None,
) -> dict[str, Any] | None:
    """What the rules cost, for an edition's metadata; None where too little is known.

    context: what the rules of this run know.
    interactions: all of this run.
    edition: the last one.
    days: how many days count for popularity; None for all time.
    """
    rules = work.pipeline.recommendations.rules
    # Without rules, the job was not asked for more results than a list has.
    if rules is None or edition is None or not edition.about.get("rules"):
        return None
    until = edition.about["data_until"]
    if until >= context.now:
        return None
    later = _read_choices(work, interactions, until)
    candidates = _read_candidates(work, edition, later.get_column(USER_ID))
    if candidates is None:
        return None
    users = candidates.get_column("user_id").unique(maintain_order=True).sort()
    if len(users) < LEAST_USERS:
        return None
    users = users.gather_every(-(-len(users) // MOST_USERS))
    candidates = candidates.filter(pl.col("user_id").is_in(users.implode())).sort(
        "user_id", maintain_order=True
    )
    before = interactions.filter(pl.col(TIMESTAMP) <= until)
    weights = work.pipeline.popularity.weights
    context_then = replace(
        context,
        user_ids=users,
        now=until,
        interactions=before.filter(pl.col(USER_ID).is_in(users.implode()))
        .collect(engine="streaming")
        .lazy(),
        popular=count_popular_items(before, days, weights).get_column(ITEM_ID),
        made_catalogue=context.catalogue,
    )
    variants = list_variants(rules, work.pipeline.recommendations.seen_items)
    ndcg = {
        name: measure_ndcg(variant, context_then, candidates, later)
        for name, variant in variants.items()
    }
    return {
        "edition": edition.number,
        "since": until,
        "users": len(users),
        "ndcg_without": float(ndcg[""].mean()),
        "rules": [
            {"rule": name, **describe_change(of_rule, ndcg[""])}
            for name, of_rule in ndcg.items()
            if name
        ],
    }


def list_variants(rules: ListRules, seen: ExcludeSeen | None) -> dict[str, Variant]:
    """No rules, by an empty name; each rule alone, by its name; and `all`.

    seen: what lists leave out because users had it.
    """
    is_rule = rules.exclude_seen is not None
    always = None if is_rule else seen
    variants = {"": Variant(ListRules(), always)}
    if is_rule and seen is not None:
        variants["exclude_seen"] = Variant(ListRules(), seen)
    for name in ("block", "only", "price", "max_per", "at_least", "pin"):
        setting = getattr(rules, name)
        if setting:
            variants[name] = Variant(ListRules.model_construct(**{name: setting}), always)
    variants["all"] = Variant(rules, seen)
    return variants


def measure_ndcg(
    variant: Variant, context: RuleContext, candidates: pl.DataFrame, later: pl.DataFrame
) -> Floats:
    """The NDCG of each user's list, in the order of the context's users.

    candidates: the columns user_id, items and scores, in the same order.
    later: the columns USER_ID and ITEM_ID, distinct: what users chose.
    """
    prepared = PreparedRules(variant.rules, variant.exclude_seen, context)
    lists = prepared.apply(candidates)
    discount = 1 / (pl.col("rank") + 1).log(2)
    chosen = lists.join(
        later, left_on=["user_id", "item_id"], right_on=[USER_ID, ITEM_ID], how="semi"
    )
    gains = chosen.group_by("user_id").agg(gain=discount.sum())
    choices = later.group_by(user_id=USER_ID).agg(choices=pl.len())
    ideal = np.append(0.0, np.cumsum(1 / np.log2(np.arange(2, context.num_results + 2))))
    table = (
        context.user_ids.alias("user_id")
        .to_frame()
        .join(gains, on="user_id", how="left", maintain_order="left")
        .join(choices, on="user_id", how="left", maintain_order="left")
    )
    best = ideal[np.minimum(table["choices"].to_numpy(), context.num_results)]
    ndcg: Floats = table["gain"].fill_null(0.0).to_numpy() / best
    return ndcg


def describe_change(with_rule: Floats, without: Floats) -> dict[str, float]:
    """The mean NDCG with a rule, by how much it is larger than without, and the 95% interval."""
    differences = with_rule - without
    change = float(differences.mean())
    margin = INTERVAL * float(differences.std(ddof=1)) / len(differences) ** 0.5
    return {
        "ndcg": float(with_rule.mean()),
        "change": change,
        "low": change - margin,
        "high": change + margin,
    }


def _read_choices(work: PersonalizeWork, interactions: pl.LazyFrame, until: int) -> pl.DataFrame:
    """USER_ID and ITEM_ID, distinct, of what counts as a success after this time."""
    later = interactions.filter(pl.col(TIMESTAMP) > until)
    targets = work.pipeline.solution.target_event_names
    if targets and EVENT_TYPE in interactions.collect_schema():
        later = later.filter(pl.col(EVENT_TYPE).str.to_lowercase().is_in(targets))
    return later.select(USER_ID, ITEM_ID).unique().collect(engine="streaming")


def _read_candidates(
    work: PersonalizeWork, edition: Edition, users: pl.Series
) -> pl.DataFrame | None:
    """The results of the edition's job for these users, or for some of them if there are many.

    The columns are user_id, items and scores, which are lists, best first. None if the output is
    gone.
    """
    arn = edition.about.get("batch_inference_job_arn")
    if arn is None:
        return None
    try:
        description = work.ensure.describe(BATCH_INFERENCE_JOB, str(arn))
        output = JobOutput(work.storage, description)
        if description["status"] != ACTIVE or not output.is_usable():
            return None
        size = sum(file.size for file in output.files())
        step, numbers = max(1, -(-size // MOST_BYTES)), count()
        wanted = users.unique().implode()

        def read_some(data: bytes) -> pl.DataFrame:
            if next(numbers) % step:
                return read_inference(b"")
            return read_inference(data).filter(pl.col("user_id").is_in(wanted))

        lines = pl.concat([*output.pieces(read_some)])
    except (ClientError, StorageError, RejectedOutputsError):
        # The retention deletes old outputs, and the lists of today do not need them.
        return None
    return lines.filter(pl.col("items").list.len() > 0).unique("user_id", maintain_order=True)
