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


def choose_num_results_of_group(
    work: PersonalizeWork, group: Sequence[PublishedList], users: int, longest_history: int
) -> int:
    """How many results the job of these lists is asked for, for each user.

    It is the most that any of them can need. What rules leave out is not counted, as each list
    would have to read what the rules of the others do.

    users: how many users the job has.
    longest_history: how many items the one of them with the most has interacted with.
    """
    return max(_find_most_results(work, published, users, longest_history) for published in group)


def count_longest_history(work: PersonalizeWork, users: pl.Series) -> int:
    """How many items the one of these users with the most has interacted with.

    Raises UserError.
    """
    with work.storage.local_file(work.files.interactions) as path:
        items = (
            scan_interactions(path)
            .filter(pl.col(USER_ID).is_in(users.implode()))
            .group_by(USER_ID)
            .agg(items=pl.col(ITEM_ID).n_unique())
        )
        longest = items.select(pl.col("items").max()).collect(engine="streaming").item()
    return 0 if longest is None else int(longest)


def _find_most_results(
    work: PersonalizeWork, published: PublishedList, users: int, longest_history: int
) -> int:
    """The most results that the list can need, for each user."""
    settings, seen = published.settings, published.settings.seen_items
    if settings.applied_rules is not None:
        most, most_for_others = limit_results_for_rules(work, settings.num_results, users)
        if seen is not None:
            filtered = work.ensure.filter_interactions if seen.filter_expression else 0
            most_for_others += max(0, longest_history - filtered)
        return min(most, most_for_others)
    if settings.exclude_seen:
        return limit_results_for_seen(work, settings.num_results, users, longest_history)
    return settings.num_results


def limit_results_for_seen(
    work: PersonalizeWork, num_results: int, users: int, longest_history: int
) -> int:
    """Results per user, enough to drop the seen items: Personalize's filter considers only the
    latest interactions.

    num_results: how many items a list has.
    """
    forgotten = max(0, longest_history - work.ensure.filter_interactions)
    return min(
        work.ensure.max_results,
        max(MAX_RESULTS, MAX_ROWS // max(1, users)),
        num_results + forgotten,
    )


def limit_results_for_rules(work: PersonalizeWork, num_results: int, users: int) -> tuple[int, int]:
    """The most results per user that rules may ask for, and the most for other rules than
    exclude_seen: not many more for many users.

    num_results: how many items a list has.
    """
    most = min(work.ensure.max_results, max(MAX_RESULTS, num_results))
    return most, max(2 * num_results, MAX_ROWS // max(1, users))
