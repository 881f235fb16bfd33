"""Requests of ``cubelet KIND ...`` that a composed cube answers itself, by ``Cube.answer``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from cubelet.datapath.thread import OnDatapath
from cubelet.ipc.client import INTERNAL_ERROR, INVALID_REQUEST, AgentError
from cubelet_hooks.context import Context
from cubelet_hooks.cube import Cube

log = structlog.get_logger()


class Questions:
    """Hands requests to the instances in force.

    ``cubes`` gives these, ``context`` the context of one. ``on_datapath`` runs a function on the
    datapath thread: instances are looked up there, since a pass may replace the composition before.
    """

    def __init__(
        self,
        cubes: Callable[[], Sequence[Cube]],
        context: Callable[[Cube], Context],
        on_datapath: OnDatapath,
    ) -> None:
        self._cubes = cubes
        self._context = context
        self._on_datapath = on_datapath

    async def ask(self, params: Mapping[str, Any]) -> object:
        """The answer of ``params["instance"]`` to ``params["method"]`` with the other params.

        Raises AgentError: the cube's own, for an unknown instance, and for a cube that fails.
        """
        rest = dict(params)
        instance, method = rest.pop("instance", None), rest.pop("method", None)
        if not isinstance(instance, str) or not isinstance(method, str):
            raise AgentError(INVALID_REQUEST, "a question to a cube has an instance and a method")
        return await self._on_datapath(self._ask, instance, method, rest)

    def _ask(self, instance: str, method: str, params: Mapping[str, Any]) -> object:
        cube = find(instance, self._cubes())
        try:
            return cube.answer(method, params, self._context(cube))
        except AgentError:
            raise
        except Exception as error:  # a cube's bug is not the agent's
            log.exception("a cube failed to answer", cube=cube.instance, method=method)
            message = f"the cube {cube.instance} failed to answer {method!r}"
            raise AgentError(INTERNAL_ERROR, message, repr(error)) from error


def find(name: str, cubes: Sequence[Cube]) -> Cube:
    """The instance called ``name``, or the only one of this kind. Raises AgentError."""
    named = [cube for cube in cubes if cube.instance == name]
    found = named or [cube for cube in cubes if cube.kind == name]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(cube.instance for cube in found)
        raise AgentError(
            INVALID_REQUEST, f"there are several instances of {name}", f"name one of {several}"
        )
    known = ", ".join(cube.instance for cube in cubes) or "nothing yet"
    raise AgentError(
        INVALID_REQUEST,
        f"no instance {name} is composed",
        f"composed is {known}; a cube that has nothing to do is left out: see cubelet plugins",
    )
