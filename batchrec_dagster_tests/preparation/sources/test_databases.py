"""How a database is connected to."""

from __future__ import annotations

import sqlalchemy as sa

from batchrec_dagster.preparation.sources import databases


def test_a_password_leaves_the_machine_by_tls_only() -> None:
    for url, connect_options in [
        ("postgresql://u@127.0.0.1/d", {"require_auth": "!password"}),
        ("postgresql://u@db/d", {"require_auth": "!password", "sslmode": "require"}),
        ("postgresql://u@db/d?sslmode=verify-full&require_auth=password", {}),
        ("mysql+pymysql://u@db/d", {}),
    ]:
        assert databases._choose_connect_args(sa.make_url(url)) == connect_options
