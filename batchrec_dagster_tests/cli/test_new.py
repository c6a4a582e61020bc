"""`batchrec new`: what is written loads and runs, and is what the files say, letter by letter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.cli import main
from batchrec_dagster.config import new_declaration
from batchrec_dagster.config.declaration_errors import DeclarationError
from batchrec_dagster.config.templates import fill_in
from batchrec_dagster_tests.cli.new_support import declared, here, left, new, written
from batchrec_dagster_tests.support import (
    Project,
    declaration,
    definitions,
    metadata,
    refresh,
    table,
    write_ratings,
)

__all__ = ["here"]
# Without it, root may write everywhere.
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
pytestmark = pytest.mark.slow


def test_a_project_that_this_user_cannot_write_is_named(here: Project) -> None:
    write_ratings(here.root / "ratings.csv")
    here.root.chmod(0o555)
    command = [
        str(Path(sys.executable).parent / "batchrec"),
        "new",
        "shop",
        "--ratings",
        "ratings.csv",
    ]
    prefix = UNPRIVILEGED if os.geteuid() == 0 else []
    done = subprocess.run([*prefix, *command], cwd=here.root, capture_output=True, text=True)
    here.root.chmod(0o755)
    assert done.returncode == 1
    assert done.stderr == f"Error: cannot write {here.root}: Permission denied\n"


def test_from_a_file_to_lists_in_the_commands_that_it_names(
    here: Project, instance: dg.DagsterInstance
) -> None:
    write_ratings(here.root / "data" / "ratings.csv")
    code, said = new("shop", "--ratings", "data/ratings.csv")
    assert code == 0, said
    assert "1,598 count, of 60 users and " in said
    assert "user: userId" in said
    assert "min_rating: 3.5" in said
    assert "Warning" not in said
    assert "batchrec run shop\n" in said
    assert said.endswith("batchrec show --pipeline shop\n")
    written_file = (here.package / "defs" / "shop" / "defs.yaml").read_text()
    assert "rows, csv, of which\n# 1,598 count, of 60 users and " in written_file
    attributes = declared(here)
    assert attributes["ratings"]["source"] == "data/ratings.csv"
    assert attributes["interactions"]["min_rating"] == 3.5
    assert refresh(here, "shop", instance).success
    assert table(here, "shop").get_column("user_id").n_unique() == 60
    shown = CliRunner().invoke(main, ["show", "--pipeline", "shop"])
    assert "recommendations for 60 users" in shown.output


def test_a_folder_of_many_files_is_said_to_be_seen_in_part(here: Project) -> None:
    lines = write_ratings(here.root / "ratings.csv").read_text().splitlines()
    (here.root / "days").mkdir()
    for day in range(23):
        rows = "\n".join([lines[0], *lines[1 + day :: 23]])
        (here.root / f"days/{day:02}.csv").write_text(f"{rows}\n")
    code, said = new("shop", "--ratings", "days")
    assert code == 0, said
    assert "Warning: 3 more files were not looked at" in said
    written_file = (here.package / "defs" / "shop" / "defs.yaml").read_text()
    assert "# in the first 20 of 23 files\n" in written_file


def test_what_is_there_is_not_overwritten(here: Project) -> None:
    write_ratings(here.root / "ratings.csv")
    assert new("shop", "--ratings", "ratings.csv")[0] == 0
    file = here.package / "defs" / "shop" / "defs.yaml"
    file.write_text(file.read_text() + "# mine\n")
    code, said = new("shop", "--ratings", "ratings.csv")
    assert code == 1
    assert "defs/shop/defs.yaml already exists" in said
    assert file.read_text().endswith("# mine\n")
    file.parent.rename(file.parent.parent / "elsewhere")
    code, said = new("shop", "--ratings", "ratings.csv")
    assert code == 1
    assert "defs/elsewhere/defs.yaml already exists" in said
    (here.package / "defs" / "club").mkdir()
    (here.package / "defs" / "club" / "notes.txt").touch()
    assert new("club", "--ratings", "ratings.csv")[0] == 1
    assert left(here) == ["club", "elsewhere"]


@pytest.mark.parametrize("name", ["my shop", "../shop", "1shop", "", "\x1b[2J", "s" * 33])
def test_what_can_be_no_name_is_refused(here: Project, name: str) -> None:
    write_ratings(here.root / "ratings.csv")
    code, said = new("--ratings", "ratings.csv", "--", name)
    assert code == 2
    assert "write a letter, then letters, digits and _" in said
    assert "\x1b" not in said
    assert left(here) == []


@pytest.mark.parametrize("name", ["null", "yes"])
def test_a_name_that_yaml_takes_for_another_type_is_quoted(here: Project, name: str) -> None:
    write_ratings(here.root / "ratings.csv")
    code, said = new("--ratings", "ratings.csv", name)
    assert code == 0, said
    assert left(here) == [name]


def test_what_does_not_load_is_not_left_behind(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ratings(here.root / "ratings.csv")
    text = new_declaration._DECLARATION
    monkeypatch.setattr(new_declaration, "_DECLARATION", text.replace("results: 25", "results: 0"))
    code, said = new("shop", "--ratings", "ratings.csv")
    assert code == 1
    assert f"{here.package}/defs/shop/defs.yaml, line" in said
    assert "recommendations.num_results: write a number from 1 to 500" in said
    assert left(here) == []


def test_columns_of_any_name_are_named_so(here: Project) -> None:
    names = ["us: er # \x1b[31m", "'it\"em", "yes", "🎬 ب\u202e"]
    header = ",".join('"{}"'.format(name.replace('"', '""')) for name in names)
    written(here.root / "odd.csv", header)
    told = ("--user", names[0], "--item", names[1], "--rating", names[2], "--time", names[3])
    code, said = new("shop", "--ratings", "odd.csv", *told)
    assert code == 0, said
    assert list(declared(here)["ratings"]["columns"].values()) == names
    assert "\x1b" not in said
    assert "\x1b" not in (here.package / "defs" / "shop" / "defs.yaml").read_text()


def test_names_in_a_file_run_no_template(here: Project, instance: dg.DagsterInstance) -> None:
    ran = here.root / "ran"
    attacks = [
        f"{{{{ {start}.__globals__.os.mkdir('{ran}{number}') }}}}"
        for number, start in enumerate(("cycler.__init__", "lipsum", "env.__init__"))
    ]
    names = [*attacks, "{{ env.HOME }} {% if 1 %}{# x #}{{{{"]
    folder = here.root / "{{ 7 * 7 }}{% x %}"
    folder.mkdir()
    header = ",".join(f'"{name}"' for name in names)
    written(folder / "{# orders #}.csv", header, {"rating": lambda _: 5})
    items = "\n".join(f"{item},Product {item}" for item in range(85))
    (folder / "{{ items }}.csv").write_text(f'"{attacks[0]}","{attacks[1]}"\n{items}\n')
    code, said = new(
        *("shop", "--ratings", "{{ 7 * 7 }}{% x %}/{# orders #}.csv"),
        *("--items", str(folder / "{{ items }}.csv")),
        *("--user", names[0], "--item", names[1], "--rating", names[2], "--time", names[3]),
        *("--items-id", attacks[0], "--items-title", attacks[1]),
    )
    assert code == 0, said
    result = refresh(here, "shop", instance)
    assert result.success
    assert metadata(result, "raw_ratings")["source"] == "{{ 7 * 7 }}{% x %}/{# orders #}.csv"
    assert table(here, "shop").get_column("title")[0].startswith("Product ")
    assert not list(here.root.glob("ran*"))


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ cycler.__init__.__globals__.os.mkdir('RAN') }}", "is unsafe"),
        ("{{ env.__class__.__init__.__globals__.os.mkdir('RAN') }}", "is unsafe"),
        ("{{ context.project_root }}", "'context' is undefined"),
        ("{{ env('NOT_SET') }}", "NOT_SET is not set"),
        ("s3://shop/{{ env.NOT_SET }}/orders.csv", "an environment variable in it is not set"),
        ("{{ env.", "expected name"),
    ],
)
def test_a_template_knows_the_environment_alone(here: Project, template: str, why: str) -> None:
    file = here.declare(declaration("shop", template.replace("RAN", str(here.root / "ran"))))
    with pytest.raises(DeclarationError, match=re.escape(why)) as error, definitions(here):
        pass
    assert str(error.value).startswith(f"{file}, line 5: ratings.source: cannot fill in ")
    assert not (here.root / "ran").exists()


@given(st.text() | st.text("{}%#'\"\\ \r\nx7[]"))
@settings(deadline=None)
def test_any_text_of_a_file_is_read_back(text: str) -> None:
    (line,) = new_declaration.format_block({"a": text})
    assert fill_in(yaml.safe_load(line)["a"], env=None) == text


@given(st.text())
@settings(deadline=None)
def test_any_text_is_written_as_itself(text: str) -> None:
    assert yaml.safe_load(f"a: {new_declaration.format_scalar(text)}  # comment") == {"a": text}


def test_without_a_project_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchrec_dagster.cli import project as module

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "project.py"))
    code, said = new("shop", "--ratings", "ratings.csv")
    assert code == 1
    assert "Work in a clone of batchrec" in said


def test_a_pipeline_of_another_project_is_no_matter(here: Project) -> None:
    here.declare(declaration("club", "ratings.csv"))
    write_ratings(here.root / "ratings.csv")
    assert new("shop", "--ratings", str(here.root / "ratings.csv"))[0] == 0
    assert declared(here)["ratings"]["source"] == "ratings.csv"
    assert left(here) == ["club", "shop"]
