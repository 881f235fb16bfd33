"""Send made-up packets through the real programs, and let a model judge what becomes of them.

Ends with 1 if an invariant was violated that is not in fuzz/known.py, or if one of those was not
violated by a million frames.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

from .campaign import Campaign, Report
from .known import KNOWN

MODES = ("fused", "tailcall")
ENOUGH = 1_000_000
"""Frames that meet everything that is known."""
_TELL_SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz; 0 if nothing but what is known was violated."""
    chosen = _parser().parse_args(arguments)
    print(f"fuzz: seed {chosen.seed}", file=sys.stderr)
    one = chosen.case is not None
    jobs = 1 if one else chosen.jobs
    frames = 1 if one else int(chosen.frames / jobs)
    modes = [chosen.mode] if chosen.mode else MODES
    failed = False
    with ProcessPoolExecutor(jobs) as pool:
        for mode in modes:
            asked = [
                (mode, chosen.seed, frames, (chosen.case or 0) + n, jobs, chosen.failures)
                for n in range(jobs)
            ]
            reports = [each.result() for each in [pool.submit(fuzz, *each) for each in asked]]
            failed |= show(mode, reports)
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    parser.add_argument("--frames", type=float, default=1e6, help="in each mode; default 1e6")
    parser.add_argument("--case", type=int, help="run this case of the seed alone")
    parser.add_argument("--mode", choices=MODES, help="default: both")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; default 1")
    parser.add_argument("--failures", type=int, default=1, help="stop after so many; default 1")
    return parser


def fuzz(mode: str, seed: int, frames: int, first: int, stride: int, most: int) -> Report:
    """A campaign on a machine of its own: cases ``first``, ``first + stride``, ..."""
    from cubelet.testkit.network import private_network

    from .machine import Machine, network

    with private_network():
        machine = Machine(network(), "fused" if mode == "fused" else "tailcall")
        try:
            campaign = Campaign(machine, seed)
            return campaign.run(frames, first, stride, _teller(mode), most)
        finally:
            machine.close()


def _teller(mode: str) -> Callable[[Report], None]:
    """Says once a minute how far it is."""
    told = time.monotonic()

    def tell(report: Report) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            print(f"{mode}: {report.frames} frames ...", file=sys.stderr, flush=True)

    return tell


def show(mode: str, reports: Sequence[Report]) -> bool:
    """Print what they say together; whether something is to be done."""
    frames = sum(report.frames for report in reports)
    rate = sum(report.frames / report.seconds for report in reports if report.seconds)
    known: Counter[str] = sum((report.known for report in reports), Counter())
    failures = [failure for report in reports for failure in report.failures]
    print(f"{mode}: {frames} frames, {rate:.0f} a second")
    for name, count in known.most_common():
        print(f"  known: {name}, {count} times")
    for failure in failures:
        print(failure)
    mended = [name for name in KNOWN if not known[name]] if frames >= ENOUGH else []
    for name in mended:
        print(f"  known, but not met: {name}; if it is mended, remove it from fuzz/known.py")
    return bool(failures or mended)


if __name__ == "__main__":
    sys.exit(main())
