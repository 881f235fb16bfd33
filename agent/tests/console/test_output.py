"""How commands print: tables, documents and errors."""

from __future__ import annotations

import json

import pytest
import typer
import yaml

from cubelet.console.output import CommandError, Format, print_as, table, told
from cubelet.ipc.client import AgentError


def test_a_table_is_as_wide_as_its_cells() -> None:
    assert table(("A", "LONG"), [("wide cell", 1), ("b", "")]) == (
        "A           LONG\nwide cell   1\nb"
    )
    assert table(("A", "LONG"), []) == "A   LONG"


def test_cells_are_for_people() -> None:
    rows: list[tuple[object, ...]] = [(True, None, ["a", "b"]), (False, [], 0)]
    assert table(("A", "B", "C"), rows).split() == [
        *("A", "B", "C"),
        *("yes", "<none>", "a,b"),
        *("no", "<none>", "0"),
    ]


def test_documents_are_json_or_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    print_as(Format.JSON, [{"a": 1}], lambda: "text")
    assert json.loads(capsys.readouterr().out) == [{"a": 1}]
    print_as(Format.YAML, [{"a": 1}], lambda: "text")
    assert yaml.safe_load(capsys.readouterr().out) == [{"a": 1}]
    print_as(Format.WIDE, [{"a": 1}], lambda: "text")
    assert capsys.readouterr().out == "text\n"


@pytest.mark.parametrize(
    "error", [CommandError("no", "do this"), AgentError(1, "no", "do this")], ids=type
)
def test_errors_are_told_in_the_format_asked_for(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as told_exit, told():
        raise error
    assert told_exit.value.exit_code == 1
    assert capsys.readouterr() == ("", "error: no\ndo this\n")
    with pytest.raises(typer.Exit), told(Format.JSON):
        raise error
    document = json.loads(capsys.readouterr().out)
    assert document == {"error": {"message": "no", "detail": "do this"}}
