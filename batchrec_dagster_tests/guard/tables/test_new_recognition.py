"""Tests that `batchrec new` recognises a file's form without options, and reports oddities."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import Project
from batchrec_dagster_tests.guard.tables.new_command import (
    ROWS,
    START,
    list_leftovers,
    read_declaration,
    run_new,
    working_project,
    write_ratings_file,
)

__all__ = ["working_project"]
pytestmark = pytest.mark.slow


def test_columns_that_are_not_known_are_asked_for_by_name(working_project: Project) -> None:
    write_ratings_file(working_project.root / "orders.csv", "who,what,stars,when")
    (working_project.root / "workspace.yaml").write_text("load_from: []\n")
    code, output = run_new("shop", "--ratings", "orders.csv")
    assert code == 2
    assert "orders.csv: couldn't recognise the user and item columns" in output
    assert "Found: who, what, stars, when. Try: --user who --item what" in output
    # An order is neither a user nor an item.
    write_ratings_file(working_project.root / "german.csv", "Bestellnr,Kunde,stars,when")
    assert "Try: --user Kunde --item COL" in run_new("shop", "--ratings", "german.csv")[1]
    write_ratings_file(working_project.root / "till.csv", "Beleg-Nr,Kd.-Nr.,Artikelnr,when")
    assert "Try: --user Kd.-Nr. --item Artikelnr" in run_new("shop", "--ratings", "till.csv")[1]
    write_ratings_file(
        working_project.root / "ended.csv", "who,what,stars,when,", {"": lambda _: ""}
    )
    assert "Found: who, what, stars, when. Try:" in run_new("shop", "--ratings", "ended.csv")[1]
    code, output = run_new("shop", "--ratings", "orders.csv", "--user", "who", "--item", "whatt")
    assert code == 2
    assert "has no column 'whatt' (ratings.columns.item); it has: who, what, stars, when" in output
    assert list_leftovers(working_project) == []
    code, output = run_new("shop", "--ratings", "orders.csv", "--user", "who", "--item", "what")
    assert code == 0, output
    assert "batchrec run shop\n" in output
    assert read_declaration(working_project)["ratings"]["columns"] == {
        "user": "who", "item": "what", "rating": "stars", "timestamp": "when",
    }  # fmt: skip


@pytest.mark.parametrize("cells", [["good"], ["88"], ["-1", "1"], ["0", "99"]])
@pytest.mark.parametrize("options", [(), ("--rating", "stars")], ids=["recognised", "given"])
def test_ratings_on_no_scale_of_5_or_10_all_count(
    working_project: Project, cells: list[str], options: tuple[str, ...]
) -> None:
    write_ratings_file(
        working_project.root / "orders.csv",
        "who;what;stars;when",
        {"rating": lambda number: cells[number % len(cells)]},
        delimiter=";",
    )
    columns = ("--user", "who", "--item", "what", *options)
    code, output = run_new("shop", "--ratings", "orders.csv", *columns)
    assert code == 0, output
    assert "Warning: the rating in column stars is on no scale of 5 or 10. All rows count" in output
    assert "rating" not in read_declaration(working_project)["ratings"]["columns"]


def test_the_lowest_rating_that_counts_can_be_given(working_project: Project) -> None:
    rows = [f"{n % 30},{n},{n % 100},{START + n}" for n in range(4000)]
    (working_project.root / "jokes.csv").write_text(
        "\n".join(["userId,itemId,rating,timestamp", *rows])
    )
    code, output = run_new("shop", "--ratings", "jokes.csv", "--min-rating", "70")
    assert code == 0, output
    assert "# 1,200 of 4,000 rows are 70 or more." in output
    assert read_declaration(working_project)["interactions"]["min_rating"] == 70
    write_ratings_file(working_project.root / "b.csv", "userId,itemId,n,timestamp")
    code, output = run_new("club", "--ratings", "b.csv", "--min-rating", "3")
    assert code == 2
    assert "--min-rating 3 needs the column: --rating COL" in output


def test_ids_that_became_decimals_are_warned_of(working_project: Project) -> None:
    rows = [f"{n % 30},{n}.0,5,{START + n}" for n in range(1000)]
    (working_project.root / "pandas.csv").write_text(
        "\n".join(["userId,itemId,rating,timestamp", *rows])
    )
    code, output = run_new("shop", "--ratings", "pandas.csv")
    assert code == 0, output
    assert "Warning: pandas.csv: the item ids (column itemId) are decimals such as 0.0" in output


def test_a_comma_for_a_point_is_seen(working_project: Project) -> None:
    header = "user_id;item_id;rating;timestamp"
    write_ratings_file(
        working_project.root / "a.csv",
        header,
        {"rating": lambda row: ("5", "4,5", "1,5")[row % 3]},
        delimiter=";",
    )
    code, output = run_new("shop", "--ratings", "a.csv")
    assert code == 0, output
    assert f"{len(ROWS) - len(ROWS[2::3]):,} of them count: 60 users" in output
    assert "cannot read" not in output
    assert read_declaration(working_project)["ratings"]["decimal"] == ","


def test_a_file_without_a_header_goes_by_position(working_project: Project) -> None:
    write_ratings_file(working_project.root / "ratings.dat", "", delimiter="::")
    code, output = run_new("seen", "--ratings", "ratings.dat")
    assert code == 0, output
    assert "ratings.dat has no header. Check the first rows above" in output
    columns = {"user": 1, "item": 2, "rating": 3, "timestamp": 4}
    assert read_declaration(working_project, "seen")["ratings"]["columns"] == columns
    write_ratings_file(
        working_project.root / "two.dat", "", {"again": lambda _: START}, delimiter="::"
    )
    code, output = run_new("two", "--ratings", "two.dat")
    assert code == 2
    assert "two.dat has no header. Give its columns by position, from 1: --user COL" in output
    assert "column_1  column_2  column_3  column_4    column_5\n1         1         2" in output
    positions = ("--user", "1", "--item", "2", "--rating", "3", "--time", "4")
    assert run_new("shop", "--ratings", "ratings.dat", *positions[:-1], "when")[0] == 2
    code, output = run_new("shop", "--ratings", "ratings.dat", *positions)
    assert code == 0, output
    ratings = read_declaration(working_project)["ratings"]
    assert ratings["delimiter"] == "::"
    assert ratings["columns"] == {"user": 1, "item": 2, "rating": 3, "timestamp": 4}
    assert run_new("club", "--ratings", "ratings.dat", *positions[:-1], "5")[0] == 2


def test_another_delimiter_and_times_as_people_write_them(working_project: Project) -> None:
    def time(number: int) -> str:
        return f"{datetime.fromtimestamp(START + 86_400 * number, UTC):%d.%m.%Y %H:%M}"

    write_ratings_file(
        working_project.root / "a.csv",
        "user_id;item_id;n;epoch;date",
        {"date": time},
        delimiter=";",
    )
    code, output = run_new("shop", "--ratings", "a.csv")
    assert code == 0, output
    ratings = read_declaration(working_project)["ratings"]
    assert (ratings["delimiter"], ratings["timestamp_format"]) == (";", "%d.%m.%Y %H:%M")
    assert ratings["columns"]["timestamp"] == "date"
    # The first rows do not tell the day from the month.
    write_ratings_file(
        working_project.root / "b.csv", "user_id,item_id,n,m,date", {"date": lambda _: "01/02/2024"}
    )
    code, output = run_new("club", "--ratings", "b.csv")
    assert code == 1
    assert "times such as '01/02/2024' may be in several formats" in output
    assert '"%d/%m/%Y" or "%m/%d/%Y". Here: --time-format' in output
    code, output = run_new("club", "--ratings", "b.csv", "--time-format", "%d/%m/%Y")
    assert code == 0, output
    assert "2024-02-01 to 2024-02-01" in output


def test_orders_in_parquet_files_have_one_column_of_times(working_project: Project) -> None:
    (working_project.root / "orders").mkdir()
    for part in range(2):
        pl.DataFrame(
            {
                "customer_id": [user for user, _ in ROWS],
                "sku": [f"{item:05}" for _, item in ROWS],
                "ordered_at": [
                    datetime.fromtimestamp(START + number, UTC) for number in range(len(ROWS))
                ],
                "lines": [[1, 2]] * len(ROWS),
            }
        ).write_parquet(working_project.root / "orders" / f"{part}.parquet")
    code, output = run_new("shop", "--ratings", "orders/*.parquet")
    assert code == 0, output
    ratings = read_declaration(working_project)["ratings"]
    assert ratings["source"] == "orders/*.parquet"
    assert ratings["format"] == "parquet"
    assert ratings["columns"] == {
        "user": "customer_id", "item": "sku", "timestamp": "ordered_at",
    }  # fmt: skip
    assert "min_rating" not in read_declaration(working_project)["interactions"]
    assert f"orders/*.parquet: {2 * len(ROWS):,} rows (parquet)" in output


def test_events_get_their_kinds(working_project: Project) -> None:
    with (working_project.root / "events.jsonl").open("w") as file:
        for number, (user, item) in enumerate(ROWS):
            event = {
                "visitorId": f"v{user}",
                "itemId": item,
                "at": datetime.fromtimestamp(START + number, UTC).isoformat(),
                "event": "buy" if number % 4 == 0 else "view",
            }
            file.write(json.dumps(event) + "\n")
    code, output = run_new("shop", "--ratings", "events.jsonl")
    assert code == 0, output
    columns = read_declaration(working_project)["ratings"]["columns"]
    assert columns["event_type"] == "event"
    assert columns["timestamp"] == "at"
    buys = len(ROWS[::4])
    assert f"# Events: view ({len(ROWS) - buys:,}), buy ({buys:,})" in output
    text = (working_project.package / "defs" / "shop" / "defs.yaml").read_text()
    assert "# filter: event <> 'view'" in text


def test_items_are_looked_at_too(working_project: Project) -> None:
    write_ratings_file(working_project.root / "ratings.csv", "userId,productId,rating,timestamp")
    lines = [f"{item};Product, no. {item};{item}.5;A|B" for item in range(85)]
    (working_project.root / "products.csv").write_text(
        "\n".join(["id;name;price;category", *lines])
    )
    code, output = run_new("shop", "--ratings", "ratings.csv", "--items", "products.csv")
    assert code == 0, output
    assert read_declaration(working_project)["items"] == {
        "source": "products.csv",
        "delimiter": ";",
        "columns": {
            "item": "id",
            "title": "name",
            "categories": {"CATEGORY": "category"},
            "numbers": {"PRICE": "price"},
        },
    }
    assert "products.csv: 85 rows" in output
    (working_project.root / "other.csv").write_text("id,name\nx,y\n")
    code, output = run_new("club", "--ratings", "ratings.csv", "--items", "other.csv")
    assert code == 0
    assert "Warning: other.csv has only 0 of the 53 items of the ratings" in output
    (working_project.root / "odd.csv").write_text("a,b\nx,y\n")
    code, output = run_new("pub", "--ratings", "ratings.csv", "--items", "odd.csv")
    assert code == 2
    assert "couldn't recognise the column with the item's id. Found: a, b" in output
    assert "items: {source: odd.csv, columns: {item: COL, title: COL, categories:" in output


def test_pictures_and_pages_of_the_items_are_recognised(working_project: Project) -> None:
    write_ratings_file(working_project.root / "ratings.csv", "userId,productId,rating,timestamp")
    shop = "https://shop.example"
    lines = [
        f"{item},Product {item},{shop}/p/{item},{shop}/{item}.JPG?w=80,not yet"
        for item in range(85)
    ]
    products = working_project.root / "products.csv"
    # The third column has no known name, but addresses of pictures. A name alone is not enough.
    products.write_text("\n".join(["id,name,url,front_view,image", *lines]))
    code, output = run_new("shop", "--ratings", "ratings.csv", "--items", "products.csv")
    assert code == 0, output
    assert read_declaration(working_project)["items"]["columns"] == {
        "item": "id", "title": "name", "image": "front_view", "link": "url",
    }  # fmt: skip
    products.write_text("\n".join(["id,name,page,image_url,other", *lines]))
    code, output = run_new("club", "--ratings", "ratings.csv", "--items", "products.csv")
    assert code == 0, output
    assert read_declaration(working_project, "club")["items"]["columns"] == {
        "item": "id", "title": "name", "image": "image_url", "link": "page",
    }  # fmt: skip


def test_few_and_bad_rows_are_reported(working_project: Project) -> None:
    (working_project.root / "few.csv").write_text(
        "user_id,item_id,timestamp\na,b,1500000000\n,c,1500000001\n"
    )
    code, output = run_new("shop", "--ratings", "few.csv")
    assert code == 1
    assert "cannot read 1 of 2 rows; the first is few.csv, line 3: no user" in output
    assert "Fix the file, or drop such rows with --on-bad-rows skip" in output
    code, output = run_new("shop", "--ratings", "few.csv", "--on-bad-rows", "skip")
    assert code == 1
    assert "it could not run: 1 interactions of 1 users" in output
    assert "Personalize needs 1,000 interactions" in output
    for source, code_wanted, expected_output in (
        ("none.csv", 1, "there is no such file"),
        ("ftp://x/y.csv", 1, "ftp:// is not supported"),
        (".", 1, ""),
    ):
        code, output = run_new("club", "--ratings", source)
        assert (code, expected_output in output) == (code_wanted, True)
    (working_project.root / "wide.csv").write_text(
        "user_id,item_id,timestamp" + ",x" * 300_000 + "\n1,2,3\n"
    )
    assert "wide.csv, line 1 has 300,003 columns" in run_new("club", "--ratings", "wide.csv")[1]
    (working_project.root / "empty.csv").touch()
    assert "empty.csv: it is empty" in run_new("club", "--ratings", "empty.csv")[1]
    assert list_leftovers(working_project) == []


def test_the_first_rows_are_shown_as_they_were_read(working_project: Project) -> None:
    def write_local_time(number: int) -> str:
        return f"{datetime.fromtimestamp(START + 86_400 * number, UTC):%d.%m.%Y %H:%M}"

    path = working_project.root / "orders.csv"
    names = {"event": lambda _: "Łódź", "at": write_local_time}
    write_ratings_file(path, "customer_id;sku;n;epoch;event;at", names, delimiter=";")
    path.write_text(path.read_text() + ";1;1;2;x;01.01.2024 10:00\n")
    options = ("--time", "at", "--on-bad-rows", "skip")
    code, output = run_new("shop", "--ratings", "orders.csv", *options)
    assert code == 0, output
    assert "user  item  time (UTC)           event_type\n" in output
    assert (
        "1     1     2017-07-14 02:40:00  Łódź\n1     4     2017-07-15 02:40:00  Łódź\n" in output
    )
    bad, line = f"1 of {len(ROWS) + 1:,} rows", f"line {len(ROWS) + 2}"
    assert f"Warning: cannot read {bad}; the first is orders.csv, {line}" in output
    assert read_declaration(working_project)["ratings"]["on_bad_rows"] == "skip"


def test_files_without_times_or_with_years_of_two_digits(working_project: Project) -> None:
    (working_project.root / "plays.tsv").write_text(
        "".join(f"u{user}\ti{item}\n" for user, item in ROWS)
    )
    code, output = run_new("fm", "--ratings", "plays.tsv", "--user", "1", "--item", "2")
    assert code == 2
    assert "(or --time none)" in output
    options = ("--user", "1", "--item", "2", "--time", "none")
    code, output = run_new("fm", "--ratings", "plays.tsv", *options)
    assert code == 0, output
    assert read_declaration(working_project, "fm")["ratings"]["columns"] == {
        "user": 1,
        "item": 2,
        "timestamp": "none",
    }
    write_ratings_file(
        working_project.root / "b.csv", "user_id,item_id,n,m,date", {"date": lambda _: "31.12.24"}
    )
    code, output = run_new("club", "--ratings", "b.csv")
    assert code == 0, output
    ratings = read_declaration(working_project, "club")["ratings"]
    assert ratings["timestamp_format"] == "%d.%m.%y"
    write_ratings_file(
        working_project.root / "c.csv", "user_id,item_id,n,m,date", {"date": lambda _: "1/2/24"}
    )
    code, output = run_new("bar", "--ratings", "c.csv")
    assert code == 1
    assert "times such as '1/2/24' may be in several formats" in output


def test_users_are_recognised_and_consent_is_suggested(working_project: Project) -> None:
    write_ratings_file(
        working_project.root / "orders.csv", "customer_id,product_id,stars,ordered_at"
    )
    customers = working_project.root / "customers.csv"
    rows = [f"{user},AT,{20 + user},{'Yes' if user % 3 else 'No'},a{user}" for user in range(1, 41)]
    customers.write_text("\n".join(["customer_id;Country;Age;Newsletter;Note", *rows]) + "\n")
    customers.write_text(customers.read_text().replace(",", ";"))
    code, output = run_new("shop", "--ratings", "orders.csv", "--users", "customers.csv")
    assert code == 0, output
    assert "customers.csv: 40 rows\n" in output
    users = read_declaration(working_project)["users"]
    assert users == {
        "source": "customers.csv",
        "delimiter": ";",
        "columns": {
            "user": "customer_id",
            "categories": {"COUNTRY": "Country", "NEWSLETTER": "Newsletter"},
            "numbers": {"AGE": "Age"},
        },
    }
    file = working_project.package / "defs" / "shop" / "defs.yaml"
    assert '# batch_users:\n  #   filter: USERS.NEWSLETTER = "Yes"  # who' in file.read_text()
    # Without the comment signs the suggestion loads.
    text = file.read_text().replace("  # batch_users:", "  batch_users:")
    file.write_text(text.replace("  #   filter: USERS", "    filter: USERS"))
    condition = 'USERS.NEWSLETTER = "Yes"'
    assert read_declaration(working_project)["batch_users"] == {"filter": condition}


def test_columns_of_users_that_are_not_recognised_are_asked_for(working_project: Project) -> None:
    write_ratings_file(working_project.root / "orders.csv", "user_id,item_id,rating,timestamp")
    customers = working_project.root / "customers.csv"
    customers.write_text("who,where\n" + "".join(f"x{user},AT\n" for user in range(1, 41)))
    options = ("--ratings", "orders.csv", "--users", "customers.csv")
    code, output = run_new("shop", *options)
    assert code == 2
    assert "couldn't recognise the column with the user's id. Found: who, where." in output
    assert "Leave out --users, and write those that you need into defs.yaml:" in output
    customers.write_text("user_id,where\n" + "".join(f"x{user},AT\n" for user in range(1, 41)))
    code, output = run_new("shop", *options)
    assert code == 2
    assert "couldn't recognise a category or number. Found: user_id, where." in output
    assert "users: {source: customers.csv, columns: {user: user_id, categories:" in output
    customers.write_text("user_id,country\n" + "".join(f"x{user},AT\n" for user in range(1, 41)))
    code, output = run_new("shop", *options)
    assert code == 0, output
    assert "has only 0 of the 60 users of the ratings. Is user_id the same id?" in output
