"""Which lists share a batch inference job, and how many results it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from batchrec_dagster.config import Pipeline
from batchrec_dagster.personalize.prices import Prices
from batchrec_dagster.personalize.resources import Ensure
from batchrec_dagster.steps.cost import estimate_results
from batchrec_dagster.steps.data_sizes import DataSize, SizeComparison
from batchrec_dagster.steps.list_jobs import declare_filter, list_endings_in_use
from batchrec_dagster.steps.requested import locate_model_users
from batchrec_dagster.steps.shared_jobs import group_lists
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.list_file import ListWriter
from batchrec_dagster_tests.guard.builders import COLUMNS, declaration
from batchrec_dagster_tests.guard.seams.editions import ALONE, make_edition

USERS = {"source": "users.csv", "column": "id"}
ITEMS = {"source": "items.csv", "columns": {"item": "id", "categories": {"COLOUR": "colour"}}}
BLUE = 'INCLUDE ItemID WHERE Items.COLOUR IN ("blue")'


def declare(lists: dict[str, Any], **settings: Any) -> Pipeline:
    base = declaration("shop", "ratings.csv", items=ITEMS, lists=lists)
    return Pipeline.model_validate({**base, **settings})


def list_groups(pipeline: Pipeline) -> list[str]:
    return [" ".join(published.name for published in group) for group in group_lists(pipeline)]


def test_lists_share_the_users_whom_the_model_serves_whatever_newcomers_get() -> None:
    pipeline = declare({"home": {"newcomers": "popular"}, "app": {"newcomers": "leave_out"}})
    assert list_groups(pipeline) == ["home app"]
    assert {locate_model_users(published) for published in pipeline.user_lists} == {
        "shop/transformed/batch_users_of_arms/model/users.json"
    }


def test_each_list_keeps_the_filters_of_the_others_and_names_its_own() -> None:
    seen = {"exclude_seen": {"events": ["buy"]}}
    ratings = {"source": "ratings.csv", "columns": {**COLUMNS, "event_type": "event"}}
    pipeline = declare({"home": {"filter": BLUE}, "app": seen}, ratings=ratings)
    filters = [declare_filter(published) for published in pipeline.user_lists]
    assert [filter.setting if filter else None for filter in filters] == [
        "lists.home.filter",
        "lists.app.exclude_seen",
    ]
    endings = {filter.ending for filter in filters if filter}
    assert endings <= {*list_endings_in_use(pipeline)}


def test_a_job_that_lists_share_is_paid_for_once(tmp_path: Path) -> None:
    storage = Storage(root=str(tmp_path), s3=S3Connection())
    pipeline = declare({"mail": {"users": USERS}, "home": {}, "app": {}})
    ensure = cast(Ensure, None)
    work = PersonalizeWork(pipeline, storage, ensure, Prices())
    mail, home, _ = pipeline.user_lists
    for published, users in ((mail, 2), (home, 3)):
        uri = work.files.uri(published.users_record)
        storage.store.put(uri, f'{{"users": {users}}}'.encode())
    works = ["recommending to 2 users (mail)", "recommending to 3 users (home, app)"]
    assert [cost.what for cost in estimate_results(work)] == works


def test_data_are_compared_with_the_newest_lists(tmp_path: Path) -> None:
    storage = Storage(root=str(tmp_path), s3=S3Connection())
    pipeline = declare({"mail": {}, "home": {}})
    work = PersonalizeWork(pipeline, storage, cast(Ensure, None), Prices())
    mail, home = pipeline.user_lists
    for day, published in enumerate((home, mail), start=1):
        sizes = {
            "sizes": {"interactions": {"rows": 100 * day}},
            "settings": pipeline.deciding_settings,
        }
        about = {"number": 1, "version": f"v{day}", "made_at": f"2026-11-0{day}", **sizes}
        with ListWriter(tmp_path / "lists.parquet") as writer:
            writer.write(pa.table({"user_id": ["1"]}))
            writer.finish(make_edition(about))
        work.files_of(published).editions.publish(writer.path, 7, ALONE)
    compare = SizeComparison(work, "interactions").check
    assert compare(DataSize(rows=190)).text.endswith("compared with 200 in edition 1 of mail")
