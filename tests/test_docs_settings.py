"""The reference of settings names every one, none that there is not, and its true default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from cubelet.composer.core import CoreSettings
from cubelet.config.cluster import ClusterConfig, Insert
from cubelet.config.node import KubernetesSettings, Settings

PAGE = Path(__file__).parent.parent / "docs/settings.md"
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "The agent's file": Settings,
    "kubernetes": KubernetesSettings,
    "core": CoreSettings,
    "The cluster's configuration": ClusterConfig,
    "insert": Insert,
}
_ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<default>.+?) \| (?P<meaning>.+) \|$", re.MULTILINE)


def section(title: str) -> str:
    _, _, rest = PAGE.read_text().partition(f"\n## {title}\n")
    assert rest, f"there is no section {title}"
    return rest.partition("\n## ")[0]


def default(field: Any) -> str | None:
    """As the page has it; None for a setting that has a section of its own."""
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, msgspec.Struct):
        return None
    if value == "":
        return '`""`'
    builtins = msgspec.to_builtins(value, enc_hook=str)
    text = yaml.safe_dump(builtins, default_flow_style=True, width=200)
    return f"`{text.splitlines()[0]}`"


@pytest.mark.parametrize("title", SECTIONS)
def test_every_setting_with_its_default(title: str) -> None:
    rows = {row["name"]: row["default"] for row in _ROW.finditer(section(title))}
    fields = {each.name: default(each) for each in msgspec.structs.fields(SECTIONS[title])}
    own = {name for name, text in fields.items() if text is None}
    assert {rows[name] for name in own} <= {"see below"}
    assert rows == {**fields, **dict.fromkeys(own, "see below")}


def test_every_section_is_a_settings_struct() -> None:
    assert re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE) == [*SECTIONS]
