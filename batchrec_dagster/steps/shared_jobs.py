"""Which of a pipeline's lists share a batch inference job, and what that job is asked for.

A job answers for all its users with one filter. So lists for the same users with the same filter
need one job, of which each takes as many results as it needs. They must ask for the same number of
results, whichever of them is made first, so that all find the same job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from batchrec_dagster.config import Pipeline, PublishedList
from batchrec_dagster.personalize.file_formats import MAX_RESULTS, scan_interactions
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
from batchrec_dagster.steps.items import find_titled_items
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.layout import USERS_FILE, ListKeys

# More results for the longest histories make every user's answer longer. This many rows in all are
# read in seconds.
MAX_ROWS = 10_000_000


def group_lists(pipeline: Pipeline) -> list[list[PublishedList]]:
    """The lists of users in groups that share a batch inference job."""
    groups: dict[tuple[Any, ...], list[PublishedList]] = {}
    for published in pipeline.user_lists:
        groups.setdefault(_describe_job(published), []).append(published)
    return [*groups.values()]


def find_group(published: PublishedList) -> list[PublishedList]:
    """The lists, this one among them, that share a batch inference job."""
    for group in group_lists(published.pipeline):
        if any(member.name == published.name for member in group):
            return group
    return [published]


def name_sharing_lists(published: PublishedList) -> str | None:
    """The lists that share the job of this one, such as `home and app`; None if it has a job of its
    own."""
    names = [member.name for member in find_group(published)]
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else None


def _describe_job(published: PublishedList) -> tuple[Any, ...]:
    """What makes the list's job another one than those of other lists."""
    settings = published.settings
    # The job of an experiment is for some of the users.
    has_own_input = published.has_own_users or published.experiment is not None
    explores = (
        published.pipeline.solution.recipe == USER_PERSONALIZATION
        and settings.exploration_weight > 0
    )
    return (
        published.name if has_own_input else None,
        settings.newcomers is not None,
        settings.filter_expression,
        # How many new items are among the first results depends on how many there are. Lists with
        # rules ask for more.
        (settings.exploration_weight, settings.num_results, settings.applied_rules is None)
        if explores
        else None,
    )


def locate_input(published: PublishedList) -> str:
    """The folder, as a storage key with its final slash, of the users of the list's job.

    They are all users, or those of them whom the model makes lists for: in a folder for each arm of
    an experiment. Lists that share a job share them.
    """
    experiment, newcomers = published.experiment, published.settings.newcomers
    if experiment is None and newcomers is None:
        return published.users_key.removesuffix(USERS_FILE)
    is_shared = experiment is None and not published.has_own_users
    owner = ListKeys(published.pipeline.name) if is_shared else published.keys
    return owner.all_arm_users


def count_results_of_group(
    work: PersonalizeWork, group: Sequence[PublishedList], users: pl.Series
) -> int:
    """How many results the job of these lists is asked for, for each of these users.

    It is the most that any of the lists can need, so that all of them ask for the same number.
    Raises UserError.
    """
    with work.storage.local_file(work.files.interactions) as path:
        interactions = scan_interactions(path)
        items = (
            interactions.filter(pl.col(USER_ID).is_in(users.implode()))
            .group_by(USER_ID)
            .agg(items=pl.col(ITEM_ID).n_unique())
        )
        longest = items.select(pl.col("items").max()).collect(engine="streaming").item()
        return max(
            count_results(
                work,
                published,
                len(users),
                longest or 0,
                leaves_out_untitled=find_titled_items(work, published, interactions) is not None,
            )
            for published in group
        )


def count_results(
    work: PersonalizeWork,
    published: PublishedList,
    users: int,
    history_length: int,
    *,
    leaves_out_untitled: bool,
) -> int:
    """How many results the list needs for each user, so that what is left out leaves enough.

    users: how many users the job has.
    history_length: how many items they had at most. Personalize's filter considers only the latest
        interactions, so the list drops the others.
    leaves_out_untitled: whether some items have no title, which the list shows.
    """
    settings, seen = published.settings, published.settings.seen_items
    needed = settings.num_results
    if settings.applied_rules is not None or leaves_out_untitled:
        needed = settings.count_candidates()
    if seen is not None:
        filtered = work.ensure.filter_interactions if seen.filter_expression else 0
        needed += max(0, history_length - filtered)
    most = max(MAX_RESULTS, MAX_ROWS // max(1, users))
    return min(work.ensure.max_results, most, needed)
