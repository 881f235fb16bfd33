"""The network configuration by which container runtimes find the plugin."""

from __future__ import annotations

import json
from pathlib import Path

from cubelet.cni import files

# Runtimes older than `cniVersions` read `cniVersion`; newer ones take the newest version that they
# know, and call STATUS and GC with 1.1.0.
_CNI_VERSION = "1.0.0"
_CNI_VERSIONS = ("1.0.0", "1.1.0")


def write_conflist(path: Path, socket: Path, name: str = "cubelet") -> None:
    """Write the network list `name`, whose plugin finds the agent at `socket`. Raises OSError.

    Runtimes watch the folder and consider a node ready once the file appears, so it is written
    atomically, and only when it differs.
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
