"""Errors of hyperparameters name the key and what is allowed."""

from __future__ import annotations

import pytest

from batchrec_dagster.local_personalize.recipes import train
from batchrec_dagster.personalize.recipes import HyperparameterError, parse_hyperparameters
from batchrec_dagster_tests.local_personalize.learning.support import interactions_of

RECIPE = "aws-user-personalization"


def test_text_is_parsed_into_values() -> None:
    assert parse_hyperparameters(
        RECIPE,
        {
            "hidden_dimension": "149",
            "bptt": "32",
            "recency_mask": "True",
            "min_user_history_length_percentile": "0.0",
            "max_user_history_length_percentile": "0.99",
        },
    ) == {
        "hidden_dimension": 149,
        "bptt": 32,
        "recency_mask": True,
        "min_user_history_length_percentile": 0.0,
        "max_user_history_length_percentile": 0.99,
    }


@pytest.mark.parametrize(
    ("key", "text", "allowed"),
    [
        ("hidden_dimension", "31", "a whole number from 32 to 256"),
        ("hidden_dimension", "257", "a whole number from 32 to 256"),
        ("hidden_dimension", "64.5", "a whole number from 32 to 256"),
        ("hidden_dimension", "", "a whole number from 32 to 256"),
        ("recency_mask", "yes", "true or false"),
        ("max_user_history_length_percentile", "1.01", "a number from 0 to 1"),
        ("max_user_history_length_percentile", "nan", "a number from 0 to 1"),
        ("min_user_history_length_percentile", "-inf", "a number from 0 to 1"),
    ],
)
def test_an_invalid_value_raises_with_what_is_allowed(key: str, text: str, allowed: str) -> None:
    with pytest.raises(
        HyperparameterError, match=f"^hyperparameter {key} is '{text}'; allowed: {allowed}"
    ):
        parse_hyperparameters(RECIPE, {key: text})


def test_an_unknown_name_raises_with_the_known_ones() -> None:
    with pytest.raises(HyperparameterError, match="no hyperparameter factors; it has: hidden"):
        parse_hyperparameters(RECIPE, {"factors": "3"})
    with pytest.raises(HyperparameterError, match="has no hyperparameter bptt; it has: none"):
        parse_hyperparameters("aws-similar-items", {"bptt": "3"})


def test_percentiles_that_leave_no_user_raise() -> None:
    with pytest.raises(HyperparameterError, match="must be below"):
        parse_hyperparameters(
            RECIPE,
            {
                "min_user_history_length_percentile": "0.5",
                "max_user_history_length_percentile": "0.5",
            },
        )


def test_an_unknown_recipe_raises_with_the_supported_ones() -> None:
    with pytest.raises(HyperparameterError, match=r"aws-hrnn is not supported.*aws-sims"):
        parse_hyperparameters("aws-hrnn", {})


def test_training_checks_hyperparameters() -> None:
    with pytest.raises(HyperparameterError, match="no hyperparameter x"):
        train(RECIPE, interactions_of([("u", "a", 1)]), {"x": "1"})
