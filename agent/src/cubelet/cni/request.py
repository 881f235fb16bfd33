"""Reading a CNI call from its environment and standard input. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cubelet.cni import errors
from cubelet.cni.call import NAMES
from cubelet.cni.errors import CniError
from cubelet.cni.plugin import VERSIONS

NEWEST = VERSIONS[-1]

# The environment each command needs, and the first version of the specification that has it.
COMMANDS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "ADD": (("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"), "0.3.0"),
    "DEL": (("CNI_CONTAINERID", "CNI_IFNAME"), "0.3.0"),
    "CHECK": (("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"), "0.4.0"),
    "GC": ((), "1.1.0"),
    "STATUS": ((), "1.1.0"),
    "VERSION": ((), "0.3.0"),
}
IFNAMSIZ = 16
# Members of network configurations: those that `Config` has, those that are checked here, and
# those of `dns`, which is part of ADD's result.
_MEMBERS = {
    name.casefold(): name
    for name in (*NAMES, "type", "socket", "ipam", "nameservers", "domain", "search", "options")
}


def read_command(env: Mapping[str, str]) -> str:
    """CNI_COMMAND. Raises CniError, code 4, if a variable it needs is missing or malformed."""
    command = env.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        raise _invalid("CNI_COMMAND", command, f"one of {', '.join(COMMANDS)}")
    for variable in COMMANDS[command][0]:
        if not env.get(variable):
            raise _invalid(variable, "", f"a value: {command} needs it")
    container_id, ifname = env.get("CNI_CONTAINERID", ""), env.get("CNI_IFNAME", "")
    if container_id and not _is_container_id(container_id):
        raise _invalid("CNI_CONTAINERID", container_id, "alphanumeric, then also '_', '.', '-'")
    if ifname and not _is_ifname(ifname):
        raise _invalid("CNI_IFNAME", ifname, f"under {IFNAMSIZ} bytes without '/', ':' or blanks")
    return command


def read_config(text: str) -> dict[str, Any]:
    """The network configuration. Raises CniError: code 6 for no JSON, 7 for no object.

    Members are found as Go's `encoding/json` finds them, on which runtimes rely: without regard to
    case, the last of several counts, and null says nothing. containerd, whose port mappings have no
    tags, writes `HostPort` and `ContainerPort`.
    """
    try:
        config = json.loads(text, object_pairs_hook=_as_go_reads)
    except (ValueError, RecursionError) as error:
        raise CniError(
            errors.DECODE_FAILURE, "network configuration on stdin is not JSON", str(error)
        ) from None
    if not isinstance(config, dict):
        raise CniError(errors.INVALID_CONFIG, "network configuration is not a JSON object")
    return config


def require_version(config: Mapping[str, Any], command: str) -> str:
    """The configuration's cniVersion. Raises CniError, code 1, if it is not ours or too old."""
    version = config.get("cniVersion")
    if version not in VERSIONS:
        raise CniError(
            errors.INCOMPATIBLE_VERSION,
            f"cniVersion {version!r} is not supported",
            f"supported: {', '.join(VERSIONS)}",
        )
    since = COMMANDS[command][1]
    if VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(
            errors.INCOMPATIBLE_VERSION, f"cniVersion {version} has no {command}: it needs {since}"
        )
    return str(version)


def check_config(config: Mapping[str, Any]) -> None:
    """Raises CniError: code 7 for a missing or misshapen field, 2 for one we cannot honour."""
    for field in ("name", "type"):
        if not isinstance(config.get(field), str) or not config[field]:
            raise CniError(errors.INVALID_CONFIG, f"network configuration has no {field}")
    if not isinstance(config.get("socket", ""), str):
        raise CniError(errors.INVALID_CONFIG, "socket is not a path", repr(config["socket"]))
    if config.get("ipam"):
        raise CniError(
            errors.UNSUPPORTED_FIELD,
            f"ipam: {json.dumps(config['ipam'])} is not supported",
            "addresses come from the node's podCIDR; remove the ipam section",
        )


def read_params(env: Mapping[str, str], command: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The params for `call.decode`. Raises CniError, code 4, for a malformed CNI_ARGS."""
    return {
        "command": command,
        "container_id": env.get("CNI_CONTAINERID", ""),
        "netns": env.get("CNI_NETNS", ""),
        "ifname": env.get("CNI_IFNAME", ""),
        "args": _read_args(env.get("CNI_ARGS", "")),
        "config": config,
    }


def read_deletion(env: Mapping[str, str]) -> dict[str, Any]:
    """The params of a DEL, which container and interface name: all else is in its record.

    So neither a configuration nor arguments that nobody can read keep a pod from ending.
    """
    named = {name: env[name] for name in COMMANDS["DEL"][0]}
    return read_params(named, "DEL", {"name": "", "cniVersion": NEWEST})


def _as_go_reads(members: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    return {
        _MEMBERS.get(name.casefold(), name): value for name, value in members if value is not None
    }


def _read_args(text: str) -> dict[str, str]:
    args = {}
    for pair in filter(None, text.split(";")):
        key, separator, value = pair.partition("=")
        if not separator:
            raise _invalid("CNI_ARGS", text, "KEY=VALUE pairs joined by ';'")
        args[key] = value
    return args


def _is_container_id(text: str) -> bool:
    plain = text.translate({ord(c): None for c in "_.-"})
    return text.isascii() and text[0].isalnum() and (plain.isalnum())


def _is_ifname(text: str) -> bool:
    if len(text.encode()) >= IFNAMSIZ or text in (".", ".."):
        return False
    return not any(c in "/:" or c.isspace() for c in text)


def _invalid(variable: str, value: str, expected: str) -> CniError:
    return CniError(
        errors.INVALID_ENVIRONMENT, f"{variable}={value!r} is not valid", f"expected {expected}"
    )
