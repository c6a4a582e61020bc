"""What Dagster's UI shows of a pipeline that has run: in a browser, asset by asset."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.pipeline import declare_asset as links
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    module_project,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.hostile import ADDRESSES, HOSTILE, MARKDOWN, OUTSIDE, quote_cells
from batchrec_dagster_tests.guard.repeats import IS_LONG
from batchrec_dagster_tests.guard.servers.dagster_ui import go, web_ui

pytestmark = [pytest.mark.slow, pytest.mark.attack]

LINKS = f"a[href*='{OUTSIDE}'], img[src*='{OUTSIDE}']"
HERE = ("file:", "http://127.0.0.1:", "data:", "blob:http://127.0.0.1:")

# Whose pages are looked at, and their plots: Dagster shows all assets alike. At night, the pages of
# all others too, without their plots.
PLOTTED = {"interactions", "solution_version", "recommendations"}
# What every asset of a pipeline is tagged with.
STAGES = {"raw", "prepared", "model", "result"}


@dataclass(frozen=True)
class Shop:
    """A pipeline with all optional assets that has run twice, and how to look at it."""

    address: str
    assets: list[dg.AssetSpec]
    checks: list[dg.AssetCheckSpec]
    instance: dg.DagsterInstance

    def metadata(self, asset: str) -> dict[str, Any]:
        """Of the asset's newest materialization: Dagster's metadata values."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(["shop", asset]))
        assert event is not None
        assert event.asset_materialization is not None
        return dict(event.asset_materialization.metadata)


# A stranger's names for the columns, the files and what is in them.
USER, ITEM, RATING, TIME = HOSTILE[10:14]
TITLE, GENRES = HOSTILE[0], HOSTILE[14]
ITEMS = range(1, 81)
FILE = "![i](http:stranger.invalid) <b>.csv"


def _id(number: int) -> str:
    return f"{HOSTILE[number % len(HOSTILE)]} {number}"


def _make_declaration(project: Project) -> dict[str, Any]:
    rows = pl.read_csv(write_ratings(project.root / FILE), glob=False)
    lines = [
        quote_cells("", ADDRESSES, 5, 1_500_000_000),
        quote_cells(_id(1), _id(1), ADDRESSES, ADDRESSES),
        *(quote_cells(_id(user), _id(item), *more) for user, item, *more in rows.iter_rows()),
    ]
    (project.root / FILE).write_text("\n".join([quote_cells(USER, ITEM, RATING, TIME), *lines]))
    lines = [
        quote_cells("", ADDRESSES, "Drama"),
        *(
            quote_cells(_id(item), HOSTILE[item % 50], f"Drama|{HOSTILE[item % 50]}")
            for item in ITEMS
        ),
    ]
    (project.root / f"items {FILE}").write_text(
        "\n".join([quote_cells(ITEM, TITLE, GENRES), *lines])
    )
    attributes = declaration(
        "shop",
        FILE,
        description=HOSTILE[10],
        items={
            "source": f"items {FILE}",
            "columns": {"item": ITEM, "title": TITLE, "categories": {"GENRES": GENRES}},
            "on_bad_rows": "skip",
        },
        recommendations={"num_results": 5},
        segments={"items": [_id(1), _id(2)], "users_per_segment": 12},
        sinks={"export": {"format": "csv"}},
    )
    columns = {"user": USER, "item": ITEM, "rating": RATING, "timestamp": TIME}
    return {**attributes, "ratings": {"source": FILE, "columns": columns, "on_bad_rows": "skip"}}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    project = module_project(tmp_path_factory.mktemp("shop"))
    project.declare(_make_declaration(project))
    home = project.process_environment()["DAGSTER_HOME"]
    with dg.DagsterInstance.from_config(home) as instance:
        for _ in range(2):
            assert refresh(project, "shop", instance, report=True).success
        with definitions(project) as defs:
            graph = defs.resolve_asset_graph()
            assets = [*defs.resolve_all_asset_specs()]
            checks = [graph.get_check_spec(key) for key in graph.asset_check_keys]
        with web_ui(project) as address:
            yield Shop(address, assets, checks, instance)


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1400, "height": 2000})
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    yield page
    assert page.evaluate("window.shot") is None
    assert [url for url in urls if not url.startswith(HERE)] == []
    page.close()


def plain(markdown: str) -> str:
    """The words of the first paragraph, as a browser has them."""
    _, inline, *_ = MARKDOWN.parse(markdown)
    return "".join(token.content for token in inline.children or ())


def numbers(metadata: dict[str, Any]) -> list[str]:
    kinds = (dg.IntMetadataValue, dg.FloatMetadataValue)
    return [key for key, value in metadata.items() if isinstance(value, kinds)]


def test_each_asset_says_what_it_is_and_its_numbers_are_plotted(shop: Shop, tab: Any) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    body = tab.locator("body")
    for spec in shop.assets:
        asset = spec.key.path[-1]
        metadata = shop.metadata(asset)
        preview = metadata["preview"].value
        assert len(spec.description or "") > 60, asset
        assert spec.tags["stage"] in STAGES, asset
        assert spec.kinds, asset
        assert "seconds" in metadata, asset
        if not IS_LONG and asset not in PLOTTED:
            continue
        go(tab, f"{shop.address}/assets/shop/{asset}")
        expect(body).to_contain_text(plain(spec.description or ""))
        expect(body).to_contain_text(plain(preview))
        if asset in PLOTTED:
            tab.get_by_text("Plots", exact=True).first.click()
            for key in numbers(metadata):
                expect(tab.get_by_text(key, exact=True).first).to_be_visible()
        expect(tab.locator(LINKS)).to_have_count(0)
    assert tab.evaluate("window.shot") is None


def test_each_check_says_in_words_what_it_found(shop: Shop, tab: Any) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    body = tab.locator("body")
    for asset in sorted({check.asset_key.path[-1] for check in shop.checks}):
        is_opened = IS_LONG or asset in PLOTTED
        if is_opened:
            go(tab, f"{shop.address}/assets/shop/{asset}?view=checks")
        for check in shop.checks:
            if check.asset_key.path[-1] != asset:
                continue
            record = shop.instance.get_latest_asset_check_evaluation_record(check.key)
            assert record is not None
            evaluation = record.evaluation
            assert evaluation is not None
            assert re.search(r"\d", evaluation.description or ""), check.key
            if not is_opened:
                continue
            tab.get_by_text(check.name, exact=True).first.click()
            expect(body).to_contain_text(check.description or "")
            expect(body).to_contain_text(plain(evaluation.description or ""))
            expect(tab.locator(LINKS)).to_have_count(0)
            for key in numbers(dict(evaluation.metadata)):
                expect(tab.get_by_text(key, exact=True).first).to_be_visible()


def test_numbers_are_rounded_and_what_says_nothing_is_left_out(shop: Shop) -> None:
    for spec in shop.assets:
        for key, value in shop.metadata(spec.key.path[-1]).items():
            if isinstance(value, dg.FloatMetadataValue):
                assert value.value == float(f"{value.value:.4g}"), key
            if isinstance(value, dg.TextMetadataValue | dg.JsonMetadataValue):
                assert value.value not in ("", {}, []), (spec.key, key)
            if isinstance(value, dg.TableSchemaMetadataValue):
                for column in value.schema.columns:
                    description = column.description or ""
                    assert " " in description, column
                    # No path in the YAML.
                    assert not re.search(r"[a-z]\.[a-z]", description), description
    report = shop.metadata("recommendation_report")
    assert str(report["verdict"].value).startswith(("Good to send", "Look before", "Do not send"))


def test_links_lead_to_the_console_on_aws_alone(tmp_path: Path) -> None:
    arn = "arn:aws:personalize:eu-west-1:123456789012:dataset-group/shop-1a"
    local = StorageResource(root=str(tmp_path), s3=S3Connection())
    on_aws = StorageResource(root="s3://bucket/a b", s3=S3Connection())
    unreachable_storage = StorageResource(
        root="s3://bucket", s3=S3Connection(endpoint_url="http://127.0.0.1:1")
    )
    assert links.dataset_group_link(arn, on_aws=False) == {}
    assert links.dataset_group_link(arn, on_aws=True)["console"].value == (
        "https://console.aws.amazon.com/personalize/home?region=eu-west-1"
        "#arn:aws:personalize:eu-west-1:123456789012:dataset-group$shop-1a/setup"
    )
    assert {
        key: value.value
        for key, value in links.storage_links("table", local, local.uri("x")).items()
    } == {"table": str(tmp_path / "x")}
    assert {
        key: value.value
        for key, value in links.storage_links("t", on_aws, on_aws.uri("x/é")).items()
    } == {
        "t": "s3://bucket/a b/x/é",
        "t_in_console": "https://console.aws.amazon.com/s3/object/bucket?prefix=a%20b/x/%C3%A9",
    }
    assert [*links.storage_links("t", unreachable_storage, unreachable_storage.uri("x"))] == ["t"]
