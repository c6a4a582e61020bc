"""Tests that declarations by `batchrec new` load, run, and match the files letter by letter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    metadata,
    refresh,
    table,
    write_ratings,
)
from batchrec_dagster_tests.guard.tables.new_command import (
    list_leftovers,
    read_declaration,
    run_new,
    working_project,
    write_ratings_file,
)

__all__ = ["working_project"]
# Without this change, root may write to every folder.
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
pytestmark = pytest.mark.slow


def test_a_project_that_this_user_cannot_write_is_named(working_project: Project) -> None:
    write_ratings(working_project.root / "ratings.csv")
    working_project.root.chmod(0o555)
    command = [
        str(Path(sys.executable).parent / "batchrec"),
        "new",
        "shop",
        "--ratings",
        "ratings.csv",
    ]
    prefix = UNPRIVILEGED if os.geteuid() == 0 else []
    result = subprocess.run(
        [*prefix, *command], cwd=working_project.root, capture_output=True, text=True
    )
    working_project.root.chmod(0o755)
    assert result.returncode == 1
    assert result.stderr == f"Error: cannot write {working_project.root}: Permission denied\n"


def test_from_a_file_to_lists_in_the_commands_that_it_names(
    working_project: Project, instance: dg.DagsterInstance
) -> None:
    write_ratings(working_project.root / "data" / "ratings.csv")
    code, output = run_new("shop", "--ratings", "data/ratings.csv")
    assert code == 0, output
    assert "1,598 of them count: 60 users and " in output
    assert "user: userId" in output
    assert "min_rating: 3.5" in output
    assert "Warning" not in output
    assert "batchrec run shop\n" in output
    assert output.endswith("batchrec show --pipeline shop\n")
    written_file = (working_project.package / "defs" / "shop" / "defs.yaml").read_text()
    assert "rows (csv)\n# 1,598 of them count: 60 users and " in written_file
    attributes = read_declaration(working_project)
    assert attributes["ratings"]["source"] == "data/ratings.csv"
    assert attributes["interactions"]["min_rating"] == 3.5
    assert refresh(working_project, "shop", instance).success
    assert table(working_project, "shop").get_column("user_id").n_unique() == 60
    result = CliRunner().invoke(main, ["show", "--pipeline", "shop"])
    assert "recommendations for 60 users" in result.output


def test_a_folder_of_many_files_is_said_to_be_seen_in_part(working_project: Project) -> None:
    lines = write_ratings(working_project.root / "ratings.csv").read_text().splitlines()
    (working_project.root / "days").mkdir()
    for day in range(23):
        rows = "\n".join([lines[0], *lines[1 + day :: 23]])
        (working_project.root / f"days/{day:02}.csv").write_text(f"{rows}\n")
    code, output = run_new("shop", "--ratings", "days")
    assert code == 0, output
    assert "Warning: 3 more files were not looked at" in output
    written_file = (working_project.package / "defs" / "shop" / "defs.yaml").read_text()
    assert "# in the first 20 of 23 files\n" in written_file


def test_existing_declarations_are_not_overwritten(working_project: Project) -> None:
    write_ratings(working_project.root / "ratings.csv")
    assert run_new("shop", "--ratings", "ratings.csv")[0] == 0
    file = working_project.package / "defs" / "shop" / "defs.yaml"
    file.write_text(file.read_text() + "# mine\n")
    code, output = run_new("shop", "--ratings", "ratings.csv")
    assert code == 1
    assert "defs/shop/defs.yaml already exists" in output
    assert file.read_text().endswith("# mine\n")
    file.parent.rename(file.parent.parent / "elsewhere")
    code, output = run_new("shop", "--ratings", "ratings.csv")
    assert code == 1
    assert "defs/elsewhere/defs.yaml already exists" in output
    (working_project.package / "defs" / "club").mkdir()
    (working_project.package / "defs" / "club" / "notes.txt").touch()
    assert run_new("club", "--ratings", "ratings.csv")[0] == 1
    assert list_leftovers(working_project) == ["club", "elsewhere"]


@pytest.mark.parametrize("name", ["my shop", "../shop", "1shop", "", "\x1b[2J", "s" * 33])
def test_an_invalid_pipeline_name_is_refused(working_project: Project, name: str) -> None:
    write_ratings(working_project.root / "ratings.csv")
    code, output = run_new("--ratings", "ratings.csv", "--", name)
    assert code == 2
    assert "write a letter, then letters, digits and _" in output
    assert "\x1b" not in output
    assert list_leftovers(working_project) == []


@pytest.mark.parametrize("name", ["null", "yes"])
def test_a_name_that_yaml_takes_for_another_type_is_quoted(
    working_project: Project, name: str
) -> None:
    write_ratings(working_project.root / "ratings.csv")
    code, output = run_new("--ratings", "ratings.csv", name)
    assert code == 0, output
    assert list_leftovers(working_project) == [name]


def test_columns_of_any_name_are_named_so(working_project: Project) -> None:
    names = ["us: er # \x1b[31m", "'it\"em", "yes", "🎬 ب\u202e"]
    header = ",".join('"{}"'.format(name.replace('"', '""')) for name in names)
    write_ratings_file(working_project.root / "odd.csv", header)
    options = ("--user", names[0], "--item", names[1], "--rating", names[2], "--time", names[3])
    code, output = run_new("shop", "--ratings", "odd.csv", *options)
    assert code == 0, output
    assert list(read_declaration(working_project)["ratings"]["columns"].values()) == names
    assert "\x1b" not in output
    assert "\x1b" not in (working_project.package / "defs" / "shop" / "defs.yaml").read_text()


def test_names_in_a_file_run_no_template(
    working_project: Project, instance: dg.DagsterInstance
) -> None:
    ran = working_project.root / "ran"
    attacks = [
        f"{{{{ {start}.__globals__.os.mkdir('{ran}{number}') }}}}"
        for number, start in enumerate(("cycler.__init__", "lipsum", "env.__init__"))
    ]
    names = [*attacks, "{{ env.HOME }} {% if 1 %}{# x #}{{{{"]
    folder = working_project.root / "{{ 7 * 7 }}{% x %}"
    folder.mkdir()
    header = ",".join(f'"{name}"' for name in names)
    write_ratings_file(folder / "{# orders #}.csv", header, {"rating": lambda _: 5})
    items = "\n".join(f"{item},Product {item},A" for item in range(85))
    (folder / "{{ items }}.csv").write_text(f'id,title,"{attacks[0]}"\n{items}\n')
    code, output = run_new(
        *("shop", "--ratings", "{{ 7 * 7 }}{% x %}/{# orders #}.csv"),
        *("--items", str(folder / "{{ items }}.csv")),
        *("--user", names[0], "--item", names[1], "--rating", names[2], "--time", names[3]),
    )
    assert code == 0, output
    result = refresh(working_project, "shop", instance)
    assert result.success
    assert metadata(result, "raw_ratings")["source"] == "{{ 7 * 7 }}{% x %}/{# orders #}.csv"
    assert table(working_project, "shop").get_column("title")[0].startswith("Product ")
    assert not list(working_project.root.glob("ran*"))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ cycler.__init__.__globals__.os.mkdir('RAN') }}", "post_processing"),
        ("{{ env.__class__.__init__.__globals__.os.mkdir('RAN') }}", "post_processing"),
        ("{{ context.load_component }}", "post_processing"),
        ("{{ env('NOT_SET') }}", "post_processing"),
        ("s3://shop/{{ env.NOT_SET }}/orders.csv", "variable NOT_SET is not set"),
        ("{{ env.", "post_processing"),
    ],
)
def test_a_template_is_a_variable_of_the_environment_alone(
    working_project: Project, template: str, reason: str
) -> None:
    file = working_project.declare(
        declaration("shop", template.replace("RAN", str(working_project.root / "ran")))
    )
    with (
        pytest.raises(dg.DagsterInvalidDefinitionError, match=re.escape(reason)) as error,
        definitions(working_project),
    ):
        pass
    assert str(error.value).startswith(f"{file}, line 5: ratings.source: cannot fill in ")
    assert not (working_project.root / "ran").exists()


def test_a_pipeline_of_another_project_is_no_matter(working_project: Project) -> None:
    working_project.declare(declaration("club", "ratings.csv"))
    write_ratings(working_project.root / "ratings.csv")
    assert run_new("shop", "--ratings", str(working_project.root / "ratings.csv"))[0] == 0
    assert read_declaration(working_project)["ratings"]["source"] == "ratings.csv"
    assert list_leftovers(working_project) == ["club", "shop"]
