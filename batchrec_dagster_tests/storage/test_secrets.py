"""Tests that batchrec's output hides texts that look like secrets, and keeps ordinary words."""

from __future__ import annotations

import pytest

from batchrec_dagster.storage.secrets import redact


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect to postgresql://shop:planted@db:5432/shop",
        "key AKIAIOSFODNN7EXAMPLE was refused",
        "GET https://b.s3.amazonaws.com/k?X-Amz-Signature=planted&x=1",
        "password=planted",
        'the "token": planted',
        "posted to https://hooks.slack.com/services/T0/B0/planted",
        "the value planted-value-of-a-variable was wrong",
    ],
)
def test_texts_that_look_like_secrets_are_hidden(text: str) -> None:
    hidden = redact(text, {"SHOP_API_TOKEN": "planted-value-of-a-variable", "HOME": "/root"})
    assert "***" in hidden
    assert "planted" not in hidden
    assert "AKIA" not in hidden


def test_ordinary_words_are_left() -> None:
    text = "cannot read s3://shop/ratings.csv: the secret does not match the access key"
    assert redact(text, {"SECRET_MODE": "on", "HOME": "/root"}) == text
