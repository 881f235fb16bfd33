"""Reads options of `lab up`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from cubelet.lab.errors import LabError


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs: values are YAML, and a dot in a key goes one level deeper."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise LabError(f"--set {pair}: KEY=VALUE is expected")
        *parents, last = key.split(".")
        level = settings
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise LabError(f"--set {pair}: {parent} has a value of its own")
        try:
            level[last] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            reason = getattr(error, "problem", None) or error
            raise LabError(f"--set {pair}: not valid YAML: {reason}") from None
    return settings
