"""The image of a pod's sandbox, made here: one static program that waits for its end (OCI 1.0)."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Final

NAME: Final = "localhost/pause:1"
_PAUSE: Final = """
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static void end(int number)
{
	(void)number;
	_exit(EXIT_SUCCESS);
}

int main(void)
{
	signal(SIGTERM, end);
	for (;;)
		pause();
}
"""
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(path: Path) -> None:
    """Write the image as an archive that `ctr images import` takes."""
    program = path.with_name("pause")
    compile_it = ["cc", "-static", "-Os", "-s", "-x", "c", "-", "-o", str(program)]
    subprocess.run(compile_it, input=_PAUSE, text=True, check=True)
    layer = _archive({"pause": program.read_bytes()})
    config = _json(
        {
            "architecture": _ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    kind = "application/vnd.oci.image"
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": _reference(f"{kind}.config.v1+json", config),
            "layers": [_reference(f"{kind}.layer.v1.tar", layer)],
        }
    )
    named = {"annotations": {"io.containerd.image.name": NAME}}
    entry = _reference(f"{kind}.manifest.v1+json", manifest) | named
    blobs = {
        f"blobs/sha256/{hashlib.sha256(each).hexdigest()}": each
        for each in (layer, config, manifest)
    }
    layout = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [entry]}),
    }
    path.write_bytes(_archive(layout | blobs))


def _reference(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _archive(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()
