"""Tests of Dagster's page in a browser: the lineage, a run of all assets, and their pages."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    ASSETS,
    Project,
    copied_project,
    declaration,
    table,
    write_ratings,
)
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.servers.dagster_ui import UPRIGHT, go, ui_of

pytestmark = pytest.mark.slow
# Content behind such URLs is part of the page or of the browser.
LOCAL_SCHEMES = ("data", "blob", "chrome-extension")


@pytest.mark.usefixtures("first_run_of_shop")
def test_each_asset_and_check_says_what_a_run_found(instance: dg.DagsterInstance) -> None:
    (run,) = instance.get_runs()
    events = [entry.dagster_event for entry in instance.all_logs(run.run_id)]
    materialized, checked = set(), {}
    for event in events:
        if event is not None and event.is_step_materialization:
            assert event.asset_key is not None
            materialized.add(event.asset_key.path[-1])
            assert event.step_materialization_data.materialization.metadata, event.asset_key
        if event is not None and event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            checked[evaluation.check_name] = evaluation.description or ""
    assert materialized == set(ASSETS)
    assert {"enough_interactions", "quality_gate"} <= set(checked)
    # in words, with a number
    assert [
        name for name, text in checked.items() if not re.search(r"[a-z].*\d|\d.*[a-z]", text)
    ] == []


@nightly("Dagster's page takes seconds of CPU")
def test_the_page_shows_the_lineage_and_materializes_it(
    tmp_path_factory: pytest.TempPathFactory, browser: Any
) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    project: Project = copied_project(tmp_path_factory.mktemp("page") / "project")
    write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv"))
    urls: list[str] = []
    with ui_of(project, project.root, has_daemon=True) as address:
        page = browser.new_page(viewport={"width": 1400, "height": 1760})
        page.on("request", lambda request: urls.append(request.url))
        page.on("websocket", lambda socket: urls.append(socket.url))
        page.add_init_script(UPRIGHT)
        lineage = f"{address}/locations/batchrec_dagster/asset-groups/shop/lineage"
        page.goto(lineage)
        for asset in ASSETS:
            page.get_by_text(asset, exact=True).first.wait_for()
        page.get_by_role("button", name="Materialize all").click()
        page.get_by_text("View", exact=True).first.click()
        page.wait_for_url("**/runs/*")
        end = page.get_by_text(re.compile("^(Success|Failure)$")).first
        end.wait_for()
        assert end.inner_text() == "Success"
        go(page, lineage)
        expect(page.get_by_text("Materialized")).to_have_count(len(ASSETS))
        page.close()
    # The page requests nothing from the internet.
    hosts = {urlsplit(url).hostname for url in urls if urlsplit(url).scheme not in LOCAL_SCHEMES}
    assert hosts == {"127.0.0.1"}
    assert table(project, "shop").get_column("user_id").n_unique() == 60
