"""The kinds of objects that installed cubes watch beyond the built-in ones.

The lab's agents run in the environment of the command line, so they find the same cubes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import cache
from typing import Any

from cubelet.cubes.discovery import Discovery, discover
from cubelet.sources.decode import Kinds, with_custom
from cubelet.sources.fields import Field
from cubelet_hooks.resources import Resource


@cache
def _installed() -> Discovery:
    """The installed cubes: imported once, and only by commands that meet an unknown kind.

    What is logged of them, or printed by them, is no output of the command.
    """
    with redirect_stdout(sys.stderr):
        return discover()


def watched() -> tuple[Resource, ...]:
    """The kinds, each once."""
    return tuple(_installed().watches.values())


def readable() -> Kinds:
    """The readers of the built-in kinds and of these."""
    return with_custom(watched())


def unwatched(kind: str) -> str:
    """Why a lab takes no object of a kind, and what to do about it."""
    remedy = "pip install the one that does, then run `cubelet lab restart`"
    if broken := _installed().quarantined():
        remedy += f", or mend what is quarantined: {', '.join(sorted(broken))}"
    return f"a lab has no {kind}, and no installed cube watches it; {remedy}"


def check_definition(definition: Mapping[str, Any]) -> Resource | None:
    """The watched kind that a CustomResourceDefinition defines; None if no cube watches it.

    Raises FieldError for the field in which the definition and the cube differ: on a cluster the
    cube would never see an object.
    """
    spec = Field(definition)["spec"]
    group, plural = spec["group"].text(None), spec["names"]["plural"].text(None)
    found = next((each for each in watched() if each.definition == f"{plural}.{group}"), None)
    if found is None:
        return None
    if spec["names"]["kind"].text(None) != found.kind:
        raise spec["names"]["kind"].error(f"must be {found.kind}, which the cube watches")
    scope = "Namespaced" if found.namespaced else "Cluster"
    if spec["scope"].text(None) != scope:
        raise spec["scope"].error(f"must be {scope}: so the cube watches {found.kind}")
    version = found.api_version.rpartition("/")[2]
    served = [each["name"].text() for each in spec["versions"].items() if each["served"].flag()]
    if version not in served:
        raise spec["versions"].error(f"must serve {version}, which the cube watches")
    return found
