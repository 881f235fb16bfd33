"""The settings file is right as a whole, or an error names the file and the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from cubelet.config.cluster import ClusterConfig
from cubelet.config.node import Settings, SettingsError, load, parse
from cubelet.config.setup import make_setup
from cubelet.cubes.discovery import discover


def test_defaults_need_no_file():
    assert load(None) == Settings()


def test_a_file_sets_what_it_names(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text(
        "bpffs: /sys/fs/bpf/x\ncomposition: tailcall\ncubes: {nat: {exempt: [10.0.0.0/8]}}"
    )
    found = load(path)
    assert (found.bpffs, found.composition) == (Path("/sys/fs/bpf/x"), "tailcall")
    assert found.cubes["nat"] == {"exempt": ["10.0.0.0/8"]}


def test_a_node_is_named_by_its_file_then_the_environment_then_its_host(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "host")
    monkeypatch.delenv("NODE_NAME", raising=False)
    assert Settings().name == "host"
    monkeypatch.setenv("NODE_NAME", "node1")
    assert Settings().name == "node1"
    assert Settings(node_name="other").name == "other"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodename: a", "unknown field `nodename`"),
        ("composition: merged", "`$.composition`"),
        ("socket: 7", "`$.socket`"),
        ("service_cidrs: 10.0.0.0/8", "`$.service_cidrs`"),
        ("- a", "Expected `object`"),
        ("a: [", "while parsing"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path, text, message):
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(SettingsError, match="No such file"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cubes": {"fierwall": {}}}, "no installed cube is called fierwall"),
        ({"core": {"flow": 1}}, "core: Object contains unknown field `flow`"),
    ],
)
def test_settings_of_nobody_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        make_setup(parse(values), ClusterConfig(), discover())
