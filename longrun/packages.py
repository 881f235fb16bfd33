"""Debian's containerd and runc, unpacked where nothing else sees them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

PACKAGES: Final = ("containerd", "runc", "containernetworking-plugins")
"""The last one has the plugin `loopback`, without which containerd starts no pod."""


def unpacked(cache: Path) -> Path:
    """The folder that stands for `/` of the packages, which are fetched if it is not there."""
    root = cache / "root"
    if root.is_dir():
        return root
    unfinished = cache / "unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    fetch = ["apt-get", "-o", "APT::Sandbox::User=root", "download", *PACKAGES]
    subprocess.run(fetch, cwd=cache, check=True, stdout=subprocess.DEVNULL)
    for package in cache.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, unfinished], check=True)
        package.unlink()
    unfinished.rename(root)
    return root
