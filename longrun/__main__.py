"""Run pods by Debian's containerd and runc on a node of the lab, and ask them by their host ports.

It fetches the packages once, into the cache, and installs none of them. Pods come and go, several
at once, each with a host port; some go while the agent is away, some are made anew before their old
sandbox is gone. Ends with 1 if anything was not as it should be.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cubelet.lab import cluster
from cubelet.lab.layout import LabSpec, Layout, plan_nodes

from .containerd import Containerd
from .packages import unpacked
from .rounds import NODE, Rounds, Wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the rounds; 0 if all went well."""
    chosen = _parser().parse_args(arguments)
    packages = unpacked(chosen.cache)
    layout = Layout(f"r{os.getpid()}")
    conflist = layout.root / "net.d" / "10-cubelet.conflist"
    spec = LabSpec(layout.name, plan_nodes(1, ()), {"cni_conf": str(conflist)})
    try:
        cluster.up(layout, spec, _tell)
        with Containerd(packages, layout.root / "containerd", layout.cni_bin(NODE)) as runtime:
            rounds = Rounds(layout, spec, runtime)
            for number in range(1, chosen.rounds + 1):
                began = time.monotonic()
                rounds.make(number)
                _tell(f"round {number} of {chosen.rounds}: {time.monotonic() - began:.1f} s")
    except Wrong as error:
        _tell(f"wrong: {error}")
        return 1
    finally:
        cluster.down(layout)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev longrun", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="default 20; one takes some 20 s")
    parser.add_argument(
        "--cache", type=Path, default=Path("/var/cache/cubelet-longrun"), help="for the packages"
    )
    return parser


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
