"""What `cubelet ddos` asks the agent for, and prints."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from cubelet_ddos.commands import app
from cubelet_hooks.command import AgentError

ROWS = [
    {"source": "192.0.2.1", "cause": "rate", "seconds": 9, "packets": 12345},
    {"source": "203.0.113.100", "cause": "operator", "seconds": 600, "packets": 0},
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the agent was asked."""
    calls: list[tuple[Any, ...]] = []

    def ask(instance: str, method: str, **params: Any) -> Any:
        calls.append((instance, method, params))
        return ROWS if method == "list" else {"source": params["address"], **params}

    monkeypatch.setattr("cubelet_ddos.commands.ask", ask)
    return calls


def run(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return done.output


def test_block_and_unblock(asked: list[tuple[Any, ...]]) -> None:
    assert run("block", "192.0.2.1") == "192.0.2.1 is blocked for 600 s\n"
    said = run("block", "192.0.2.1", "--seconds", "5", "--instance", "ddos1")
    assert said == "192.0.2.1 is blocked for 5 s\n"
    assert run("unblock", "192.0.2.1") == "192.0.2.1 is no longer blocked\n"
    assert asked == [
        ("ddos", "block", {"address": "192.0.2.1", "seconds": 600}),
        ("ddos1", "block", {"address": "192.0.2.1", "seconds": 5}),
        ("ddos", "unblock", {"address": "192.0.2.1"}),
    ]


def test_list_is_a_table_or_json(asked: list[tuple[Any, ...]]) -> None:
    assert run("list").splitlines() == [
        "SOURCE          CAUSE      SECONDS   PACKETS",
        "192.0.2.1       rate       9         12345",
        "203.0.113.100   operator   600       0",
    ]
    assert json.loads(run("list", "-o", "json")) == ROWS


def test_errors_are_the_callers_to_print(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AgentError(3, "it is allowed")

    monkeypatch.setattr("cubelet_ddos.commands.ask", refuse)
    assert isinstance(CliRunner().invoke(app, ["block", "::"]).exception, AgentError)
