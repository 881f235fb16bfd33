"""Checks the name of a new cube."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution, entry_points

from cubelet.console.output import CommandError
from cubelet.cubes.declarations import OWN_COMMANDS, OWN_METRICS
from cubelet.cubes.discovery import KIND, RESERVED
from cubelet_hooks.hookspecs import ENTRY_POINT_GROUP

LONGEST = 20
"""Letters of a name, with which every identifier of the C and every map's name begins."""
TABLES = frozenset(("cubes", "drops", "flows", "ports"))
"""Nouns of ``cubelet get`` that are the core's own."""


def check_name(name: str) -> None:
    """Raise CommandError, with the remedy, for a name that no new cube can have."""
    if not KIND.fullmatch(name) or len(name) > LONGEST:
        raise CommandError(
            f"{name!r} cannot be the name of a cube",
            f"it begins every identifier of the C: up to {LONGEST} lower-case letters and digits, "
            f"a letter first{_suggestion(name)}",
        )
    if name in RESERVED:
        raise CommandError(
            f"{name!r} is reserved: identifiers that begin with it are the kernel's or the core's",
            f"choose a name that is none of {', '.join(sorted(RESERVED))}",
        )
    if name in OWN_COMMANDS | OWN_METRICS | TABLES:
        raise CommandError(
            f"{name!r} is the name of one of cubelet's own commands, metrics or tables",
            f"choose another one, such as my{name}",
        )
    taken = _installed(name)
    if taken:
        raise CommandError(
            f"{name!r} is taken: {taken} is installed", "choose another name, or uninstall it"
        )


def _suggestion(name: str) -> str:
    close = re.sub(r"^\d+|[^a-z0-9]", "", name.lower())[:LONGEST]
    return f"; such as {close}" if close != name and KIND.fullmatch(close) else ""


def _installed(name: str) -> str:
    """The distribution that has the name already; empty if there is none."""
    try:
        found = distribution(f"cubelet-{name}")
    except PackageNotFoundError:
        point = next(iter(entry_points(group=ENTRY_POINT_GROUP, name=name)), None)
        if point is None:
            return ""
        return f"{point.dist.name} {point.dist.version}" if point.dist else point.value
    return f"{found.name} {found.version}"
