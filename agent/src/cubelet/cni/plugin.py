"""The executable `cubelet-cni` where there is no C compiler: relays one CNI call to the agent.

It does the same as `cubelet-cni.c`, whose comments describe the exchange with the agent. Without
the agent it answers VERSION, notes what DEL deletes, and reports all else as an error.

A copy of this file is itself the plugin, run without any package (`python -I -S`), once per pod
operation: it imports nothing of cubelet, and little else.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys

TYPE_CHECKING = False  # as type checkers know it; importing it would take 3 ms
if TYPE_CHECKING:
    from typing import Any

DEFAULT_SOCKET = "/run/cubelet/agent.sock"
# The folder of noted deletions has the name of the socket with this at its end.
DELETIONS_SUFFIX = ".deleted"
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
# Bytes, of the configuration and of the reply.
MAX_SIZE = 1 << 20
# Seconds; longer than the agent waits for its datapath.
TIMEOUT = 60.0

# CNI's error codes; those from 100 on are cubelet's own (see `cubelet.cni.errors`).
INVALID_CONFIG, TRY_AGAIN_LATER, NOT_AVAILABLE, INTERNAL = 7, 11, 50, 100

_UNREADABLE = "cannot read the network configuration from stdin"
_REMEDY = (
    "; start it with `cubelet agent`, or name its socket in the network configuration if it "
    "listens elsewhere"
)


def main() -> int:
    """Run the call described by the environment and stdin; the process's exit status."""
    config: dict[str, Any] = {}
    try:
        text = sys.stdin.buffer.read(MAX_SIZE + 1)
        if len(text) > MAX_SIZE:
            return _fail(config, INVALID_CONFIG, _UNREADABLE, "it is longer than 1 MiB")
        config = _peek(text)
        command = os.environ.get("CNI_COMMAND")
        if command == "VERSION":
            _print({"cniVersion": _version(config), "supportedVersions": VERSIONS})
            return 0
        path = config.get("socket")
        path = path if isinstance(path, str) and path else DEFAULT_SOCKET
        try:
            reply = _ask(path, text)
        except OSError as error:
            if command == "DEL" and _note_deletion(path):
                return 0
            code = NOT_AVAILABLE if command == "STATUS" else TRY_AGAIN_LATER
            return _fail(config, code, f"no cubelet agent answers on {path}", f"{error}{_REMEDY}")
        return _answer(config, json.loads(reply))
    except Exception as error:  # runtimes can read only errors in JSON
        return _fail(config, INTERNAL, "cubelet-cni failed", repr(error))


def _peek(text: bytes) -> dict[str, Any]:
    """The configuration, or an empty one if it cannot be read: the agent reports the error."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    # By names in lower case: runtimes are written in Go, which reads them without regard to case.
    return {k.casefold(): v for k, v in config.items()} if isinstance(config, dict) else {}


def _ask(path: str, text: bytes) -> bytes:
    """The agent's reply. Raises OSError."""
    env = {name: value for name, value in os.environ.items() if name.startswith("CNI_")}
    params = {"env": env, "stdin": text.decode(errors="surrogateescape")}
    request = json.dumps({"method": "cni", "params": params}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(path)
        # An agent that refuses says why before it closes.
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        reply = b""
        # Read to the line's end: an agent that refuses a request resets the connection after it.
        while not reply.endswith(b"\n") and (part := connection.recv(1 << 16)):
            reply += part
            if len(reply) > MAX_SIZE:
                raise OSError("its answer is longer than 1 MiB")
    if not reply:
        raise ConnectionError("it closed the connection without an answer")
    return reply


def _note_deletion(path: str) -> bool:
    """Note for the agent's return what DEL deletes; False if that cannot be done."""
    container, ifname = (os.environ.get(f"CNI_{name}", "") for name in ("CONTAINERID", "IFNAME"))
    plain = container.translate({ord(c): None for c in "_.-"})
    named = container.isascii() and container[:1].isalnum() and plain.isalnum()
    if not named or not ifname or "/" in ifname:
        return False
    folder = path + DELETIONS_SUFFIX
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        with open(f"{folder}/{container}:{ifname}", "ab"):
            return True
    except FileNotFoundError:
        return True  # no agent has run here since the node started
    except OSError:
        return False


def _answer(config: dict[str, Any], reply: dict[str, Any]) -> int:
    """Print the agent's reply; returns the exit status."""
    if "error" in reply:  # its server did not take the request, or is of another version
        error = reply["error"]
        return _fail(config, INTERNAL, error["message"], error["details"])
    result = reply["result"]
    if result["output"] is not None:
        _print(result["output"])
    return int(result["status"])


def _version(config: dict[str, Any]) -> str:
    """The version that a result has: the configuration's if it is one of ours, else the newest."""
    version = config.get("cniversion")
    return version if version in VERSIONS else VERSIONS[-1]


def _fail(config: dict[str, Any], code: int, message: str, details: str) -> int:
    _print({"cniVersion": _version(config), "code": code, "msg": message, "details": details})
    return 1


def _print(document: dict[str, Any]) -> None:
    print(json.dumps(document))


if __name__ == "__main__":
    sys.exit(main())
