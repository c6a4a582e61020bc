"""Settings that a trial keeps are written into a defs.yaml, and all else stays as it was."""

from __future__ import annotations

from typing import Any

import pytest

from batchrec_dagster.config.changed_declaration import change_declaration
from batchrec_dagster.config.trial import TrialError, apply_settings, parse_settings

TEXT = """\
# The shop.
type: batchrec_dagster.BatchRecommendations

attributes:
  name: shop      # its name

  ratings: {source: data.csv}
  solution:
    # Trained every night.
    recipe: aws-user-personalization-v2  # the newest
    retrain:
      every_days: 7

  # What is sent.
  recommendations:
    num_results: 25
    filter: >
      EXCLUDE ItemID
      WHERE Items.A IN ("b")

    rules: {only: 'ITEMS.STOCK > 0'}   # in stock
  experiment:

  schedule: {enabled: false}
"""


@pytest.mark.parametrize(
    ("settings", "old", "new"),
    [
        (
            {"solution.recipe": "aws-popularity-count"},
            "aws-user-personalization-v2  #",
            "aws-popularity-count  #",
        ),
        ({"ratings.source": "new.csv"}, "source: data.csv", "source: new.csv"),
        (
            {"solution.retrain": {"every_days": 3}},
            "      every_days: 7\n",
            "      {every_days: 3}\n",
        ),
        (
            {"solution.perform_hpo": True},
            "      every_days: 7\n",
            "      every_days: 7\n    perform_hpo: true\n",
        ),
        (
            {"recommendations.rules.max_per.BRAND": 2},
            "'ITEMS.STOCK > 0'}",
            "'ITEMS.STOCK > 0', max_per: {BRAND: 2}}",
        ),
        (
            {"recommendations.filter": None},
            '    filter: >\n      EXCLUDE ItemID\n      WHERE Items.A IN ("b")\n',
            "",
        ),
        ({"recommendations.rules.only": None}, "{only: 'ITEMS.STOCK > 0'}", "{}"),
        ({"experiment": {"name": "a"}}, "  experiment:\n", "  experiment: {name: a}\n"),
        ({"experiment.name": "a"}, "  experiment:\n", "  experiment: {name: a}\n"),
        (
            {"popularity.days": 30},
            "  schedule: {enabled: false}\n",
            "  schedule: {enabled: false}\n  popularity: {days: 30}\n",
        ),
    ],
)
def test_only_the_setting_changes(settings: dict[str, Any], old: str, new: str) -> None:
    assert change_declaration(TEXT, "shop", settings) == TEXT.replace(old, new)
    assert TEXT.count(old) == 1


def test_several_settings_and_documents() -> None:
    text = "type: other\nattributes: {name: x}\n---\n" + TEXT
    settings = {"solution.recipe": "aws-sims", "gate.min_ndcg": 0.1, "interactions": {"a": 1}}
    changed = change_declaration(text, "shop", settings)
    assert "recipe: aws-sims  # the newest\n" in changed
    assert changed.endswith("  gate: {min_ndcg: 0.1}\n  interactions: {a: 1}\n")


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(TrialError, match="write them yourself: ratings"):
        change_declaration(
            "attributes: &all\n  name: shop\n  ratings: {source: &x {a: 1}, other: *x}\n",
            "shop",
            {"ratings.source.file": "a"},
        )
    with pytest.raises(TrialError, match="no pipeline has the name toys"):
        change_declaration(TEXT, "toys", {})


def test_settings_of_the_command_line() -> None:
    assert parse_settings(("a.b=1", "c={d: [x, 2026-11-24]}", "e=null", "f=x=y")) == {
        "a.b": 1,
        "c": {"d": ["x", "2026-11-24"]},
        "e": None,
        "f": "x=y",
    }
    for text, message in {
        "solution": "is not a setting: write its path and value",
        "sinks.export.format=csv": "cannot be tried: a trial writes to no sinks",
        "a.b={": "is not YAML",
    }.items():
        with pytest.raises(TrialError, match=message):
            parse_settings((text,))
    with pytest.raises(TrialError, match="Give the whole of ratings"):
        apply_settings({"ratings": {"source": "a.csv"}}, {"ratings.source.path": "b"})
