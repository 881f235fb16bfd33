"""Reading settings and printing tables: the lab's command line without a lab."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cubelet.lab import views
from cubelet.lab.cli import app
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import kind_named
from cubelet.lab.options import parse_settings


def test_settings_are_yaml_and_dots_go_deeper() -> None:
    pairs = ["composition=fused", "nat.ports=[1, 2]", "nat.on=true", "note=a=b"]
    assert parse_settings(pairs) == {
        "composition": "fused",
        "nat": {"ports": [1, 2], "on": True},
        "note": "a=b",
    }


@pytest.mark.parametrize("pair", ["a", "=1"])
def test_a_setting_without_key_or_value_is_refused(pair: str) -> None:
    with pytest.raises(LabError, match="KEY=VALUE"):
        parse_settings([pair])


def test_objects_are_shown_with_what_their_kind_has() -> None:
    pod = {
        "metadata": {"name": "a", "namespace": "d", "labels": {"x": "y"}},
        "spec": {"nodeName": "node1", "containers": [{"ports": [{"containerPort": 80}]}]},
        "status": {"phase": "Running", "podIP": "10.244.1.2"},
    }
    assert views.manifests(kind_named("pods"), [pod]).split() == [
        *("NAMESPACE", "NAME", "STATUS", "IP", "NODE", "PORTS", "LABELS"),
        *("d", "a", "Running", "10.244.1.2", "node1", "80/TCP", "x=y"),
    ]
    assert views.manifests(kind_named("pods"), []) == "no pods"


def test_an_error_is_json_when_json_is_asked_for() -> None:
    result = CliRunner().invoke(app, ["get", "pods", "--name", "nosuchlab", "-o", "json"])
    assert result.exit_code == 1
    assert "not up" in json.loads(result.stdout)["error"]["message"]


def test_an_error_is_text_on_stderr_otherwise() -> None:
    result = CliRunner().invoke(app, ["get", "pods", "--name", "No"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "lab name 'No'" in result.stderr
