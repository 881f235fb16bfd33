"""The executable `cubelet-cni`: relays one CNI call to the agent (CNI specification 1.1).

It starts once per pod operation, so it imports next to nothing and leaves the work to the agent.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from cubelet.client import DEFAULT_SOCKET, AgentError, AgentUnreachableError, call
from cubelet.cni import errors, request
from cubelet.cni.errors import CniError

# Longer than the agent waits for its datapath; container runtimes give a call minutes.
TIMEOUT = 60.0


def main() -> int:
    """Run the call described by the environment and stdin; the process's exit status."""
    config: dict[str, Any] = {}
    try:
        command = request.read_command(os.environ)
        text = sys.stdin.read()
        # `VERSION` may come from a runtime too old to send a configuration with it.
        config = request.read_config(text) if text.strip() or command != "VERSION" else {}
        result = _version(config) if command == "VERSION" else _relay(command, config)
    except AgentError as error:
        return _fail(config, error)
    except Exception as error:  # a runtime understands nothing but error JSON
        return _fail(config, CniError(errors.INTERNAL, "cubelet-cni failed", repr(error)))
    if result:
        _print(result)
    return 0


def _relay(command: str, config: dict[str, Any]) -> Any:
    request.require_version(config, command)
    request.check_config(config)
    params = request.read_params(os.environ, command, config)
    try:
        return call(config.get("socket") or DEFAULT_SOCKET, "cni", params, TIMEOUT)
    except AgentUnreachableError as error:
        code = errors.NOT_AVAILABLE if command == "STATUS" else errors.TRY_AGAIN_LATER
        raise CniError(code, error.message, error.details) from error
    except AgentError as error:
        # Codes of the transport are negative, those of CNI are not.
        code = error.code if error.code > 0 else errors.INTERNAL
        raise CniError(code, error.message, error.details) from error


def _version(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "cniVersion": config.get("cniVersion", request.NEWEST),
        "supportedVersions": list(request.VERSIONS),
    }


def _fail(config: dict[str, Any], error: AgentError) -> int:
    version = config.get("cniVersion")
    _print(
        {
            "cniVersion": version if version in request.VERSIONS else request.NEWEST,
            "code": error.code,
            "msg": error.message,
            "details": error.details,
        }
    )
    return 1


def _print(document: dict[str, Any]) -> None:
    print(json.dumps(document))


if __name__ == "__main__":
    sys.exit(main())
