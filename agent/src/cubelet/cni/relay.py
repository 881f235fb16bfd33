"""The agent's end of the plugin's relay: turns a runtime's call into the text the plugin prints.

The plugin hands on its environment and standard input as they are. Decoding, validation and error
results are here, so that neither plugin (`cubelet-cni.c`, `plugin.py`) needs them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from cubelet.cni import errors, request
from cubelet.cni.plugin import VERSIONS
from cubelet.ipc.client import INVALID_REQUEST, AgentError


class Reply(msgspec.Struct, frozen=True):
    """The plugin's exit status, and what it prints; None: nothing."""

    status: int
    output: Mapping[str, Any] | None = None


class _Said(msgspec.Struct, frozen=True):
    """A runtime's call: the variables `CNI_*` of its environment, and the configuration."""

    env: dict[str, str]
    stdin: str


Serve = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Serves one call as `request.read_params` gives it; its result is empty for all but ADD."""


async def relay(serve: Serve, params: Mapping[str, Any]) -> Reply:
    """The plugin's output for `params`, its environment and standard input.

    CNI's errors are replies. Raises AgentError only for params that no plugin of ours sends.
    """
    try:
        said = msgspec.convert(params, _Said)
    except msgspec.ValidationError as error:
        raise AgentError(
            INVALID_REQUEST,
            "the CNI plugin speaks another version of the agent's protocol",
            f"{error}; the agent puts its own plugin in place when it starts",
        ) from None
    config: dict[str, Any] = {}
    try:
        command = request.read_command(said.env)
        if command == "DEL":
            params = request.read_deletion(said.env)
        else:
            config = request.read_config(said.stdin)
            request.require_version(config, command)
            request.check_config(config)
            params = request.read_params(said.env, command, config)
        result = await serve(params)
    except AgentError as error:
        return Reply(1, _error(config, error))
    return Reply(0, result or None)


def _error(config: Mapping[str, Any], error: AgentError) -> dict[str, Any]:
    """An error result. Codes of the transport are negative, those of CNI are not."""
    version = config.get("cniVersion")
    return {
        "cniVersion": version if version in VERSIONS else request.NEWEST,
        "code": error.code if error.code > 0 else errors.INTERNAL,
        "msg": error.message,
        "details": error.details,
    }
