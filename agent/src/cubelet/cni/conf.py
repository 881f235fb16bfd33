"""The network configuration by which container runtimes find the plugin."""

from __future__ import annotations

import json
from pathlib import Path

from cubelet.cni import files

# Runtimes that know nothing of `cniVersions` read `cniVersion`; the others take the newest they
# know, and with 1.1.0 use STATUS and GC.
_CNI_VERSION = "1.0.0"
_CNI_VERSIONS = ("1.0.0", "1.1.0")


def write_conflist(path: Path, socket: Path, name: str = "cubelet") -> None:
    """Write the network list `name`, whose plugin finds the agent at `socket`. Raises OSError.

    Runtimes watch the folder and take a node for ready once the file appears, so it appears whole,
    and only when it differs.
    """
    network = {
        "cniVersion": _CNI_VERSION,
        "cniVersions": list(_CNI_VERSIONS),
        "name": name,
        "plugins": [
            {
                "type": "cubelet-cni",
                "socket": str(socket),
                # Without it runtimes keep pods' host ports to themselves.
                "capabilities": {"portMappings": True},
            }
        ],
    }
    content = json.dumps(network, indent=2).encode() + b"\n"
    if not path.is_file() or path.read_bytes() != content:
        files.write_atomic(path, content, mode=0o644)


def remove_conflist(path: Path) -> bool:
    """Remove the list, so that the runtime sends no more pods here; False if it was gone."""
    return files.remove(path)
