"""The command line: ``python -m bench NAME [--json FILE]``; without NAME it lists benchmarks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench import chain, cni, connections, sync, verified
from bench.stats import Row
from bench.table import table

BENCHMARKS: dict[str, tuple[Callable[[int], list[Row]], str]] = {
    "chain": (chain.run, "ns per packet: fused, tailcall and monolith; established, first packet"),
    "cni": (cni.run, "ms until a pod has its network: CNI ADD and DEL, both plugins, 110 pods"),
    "connections": (
        connections.run,
        "new connections a second, and failures: ClusterIP, remote NodePort, masquerade; bare",
    ),
    "sync": (sync.run, "an agent and 10,000 Services: first sync, memory, CPU, change to map"),
    "verified": (verified.run, "instructions that the verifier goes through, and their budget"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; print its rows as a table, and write them as JSON with ``--json``."""
    parser = argparse.ArgumentParser(prog="./dev bench", description="Run a benchmark.")
    parser.add_argument("name", nargs="?", choices=BENCHMARKS, metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--rounds", type=int, default=chain.ROUNDS, help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    if chosen.name is None:
        for name, (_, text) in BENCHMARKS.items():
            print(f"{name:<13}{text}")
        return 0
    print(f"bench {chosen.name}: some minutes ...", file=sys.stderr)
    rows = BENCHMARKS[chosen.name][0](chosen.rounds)
    print(table(rows))
    if chosen.json:
        chosen.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
