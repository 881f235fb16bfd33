"""Tries the cubes that are installed now, in a process of its own that ends.

Run as ``python -m cubelet.control.trial``: it reads a pickled :class:`Job` from standard input and
writes a :class:`Verdict` as JSON to standard output. What is installed is copied, imported,
checked, planned over the agent's present state, compiled and verified. Nothing of the agent
changes; what a broken package does, and what it costs, stays here. Guests plan as they do in the
agent, in processes of their own and within the same limits.
"""

from __future__ import annotations

import asyncio
import copyreg
import ctypes
import os
import pickle
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, MappingProxyType

import msgspec

from cubelet.bpf.syscalls import BpfError
from cubelet.composer.compiler import compile_source
from cubelet.composer.composition import Composition, CompositionError
from cubelet.composer.errors import CompileError
from cubelet.composer.fitting import fit
from cubelet.composer.slots import Slots
from cubelet.composer.source import write_source
from cubelet.config.cluster import ClusterConfig
from cubelet.config.node import Settings, SettingsError
from cubelet.config.setup import Setup, make_setup
from cubelet.control.switchover import Plan
from cubelet.cubes.discovery import Discovery
from cubelet.cubes.keeping import Found, Keeper
from cubelet.guests.registry import Guests
from cubelet.state.cluster import State
from cubelet_hooks.objects import Change, LocalNode, Object

_SECONDS = 300.0
"""What a trial may take, compiler and verifier included."""
_PLANNING = 60
"""Seconds for all plans; then whatever plans is stopped, again each second."""
_MEMORY = 1 << 30
"""Bytes of address space for what cubes do, beyond what there is when they begin: one that wants
memory without end gets a MemoryError, and the node keeps its own."""
_PR_SET_PDEATHSIG = 1
_MOST = 20
"""Cubes that may prove faulty, one after the other."""


def _read_only(values: dict[str, object]) -> MappingProxyType[str, object]:
    return MappingProxyType(values)


copyreg.pickle(MappingProxyType, lambda found: (_read_only, (dict(found),)))


@dataclass(frozen=True)
class Job:
    """What the agent knows: its settings, the configuration in force, and all objects.

    ``running`` are the hashes of the copies that it runs: their faults are not new.
    """

    settings: Settings
    config: ClusterConfig
    reasons: Mapping[str, int]
    slots: Slots
    objects: tuple[Object, ...]
    local: LocalNode | None
    hz: int
    early_xdp: bool
    running: frozenset[str]


class Verdict(msgspec.Struct, frozen=True):
    """What the agent may run: the plugins, each with its copy; not the kinds in ``faults``.

    ``lost`` is a Discovery's, ``refused`` says why nothing of it can be composed, '' if it can.
    """

    plugins: tuple[Found, ...] = ()
    faults: Mapping[str, str] = {}
    lost: Mapping[str, str] = {}
    refused: str = ""


async def try_out(job: Job) -> Verdict:
    """Have it tried in a process of its own; one that does not end is a refusal."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cubelet.control.trial"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # its compiler is killed with it
    )
    data = await asyncio.to_thread(pickle.dumps, job)
    try:
        async with asyncio.timeout(_SECONDS):
            out, log = await process.communicate(data)
    except TimeoutError:
        return Verdict(refused=f"the trial did not end within {_SECONDS:.0f} s")
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    try:
        return msgspec.json.decode(out, type=Verdict)
    except msgspec.DecodeError:
        last = log.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        return Verdict(refused=f"the trial ended with status {process.returncode}: {last[0]}")


def main() -> None:
    """Try the job on standard input."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody waits for the answer then
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what cubes print is no answer
    job: Job = pickle.load(sys.stdin.buffer)
    state = State()
    guests = Guests(state)
    try:
        with _lean():
            discovery = Keeper(job.settings.state_dir / "cubes", guests.stand_in).discover()
        for each in job.objects:
            state.apply(Change.between(None, each))
        refused = _compose(job, discovery, state)
    finally:
        guests.close()
    found = tuple(map(Found.of, discovery.plugins))
    answer.write(msgspec.json.encode(Verdict(found, discovery.faults, discovery.lost, refused)))
    answer.close()


def _compose(job: Job, discovery: Discovery, state: State) -> str:
    """Why nothing can be composed; new cubes that fail fall back, or are left out."""
    problem = ""
    tolerated: set[str] = set()
    for _ in range(_MOST):
        try:
            setup = make_setup(
                job.settings, job.config, discovery, job.reasons, bool(discovery.faults), job.slots
            )
            unplanned = _unplanned(setup, state)
            found = {kind: why for kind, why in unplanned.items() if kind not in tolerated}
            if all(_runs(job, discovery, kind) for kind in found):
                unplanned, found = {}, _faults(job, setup, state)
        except (SettingsError, CompositionError) as error:
            kind = error.kind if isinstance(error, CompositionError) else ""
            unplanned, found = {}, {kind: str(error)}
        essential = {kind for kind, cube in discovery.cubes.items() if cube.essential}
        fresh = {kind: why for kind, why in found.items() if not _runs(job, discovery, kind)}
        if not fresh:
            return ""
        for kind, problem in fresh.items():
            if discovery.fall_back(kind, problem):
                continue
            if kind in unplanned:  # some object's problem, and no reason to do without the cube
                tolerated.add(kind)
                continue
            if not kind or kind in essential or kind in discovery.faults:
                return problem
            discovery.faults[kind] = problem
    return problem


def _runs(job: Job, discovery: Discovery, kind: str) -> bool:
    """Whether the agent runs this version of a kind already."""
    own = (p for p in discovery.plugins if kind in {cube.kind for cube in p.cubes})
    return any(plugin.digest in job.running for plugin in own)


def _unplanned(setup: Setup, state: State) -> dict[str, str]:
    """The kinds of which some unit cannot be planned, each with the reason."""
    with _bounded(_PLANNING):
        planner = Plan.of(setup, state, 0).planner
    return {
        planner.cubes[instance].kind: f"planning {' '.join(unit)} failed: {error}"
        for (instance, unit), error in planner.failures.items()
    }


def _faults(job: Job, setup: Setup, state: State) -> dict[str, str]:
    """The kinds that cannot be composed, each with the reason; '' for the composition as such."""
    with _bounded(_PLANNING):
        composition = setup.composition.specialised(setup.composition.facts_of(state))
    if job.local is None:
        return {}
    try:
        fit(composition, partial(_compile, job, setup), partial(_compile, job, setup))
    except CompileError as error:
        return {error.cube: str(error)}
    except (BpfError, OSError) as error:
        return {"": str(error)}
    return {}


def _compile(job: Job, setup: Setup, composition: Composition) -> None:
    assert job.local is not None
    early_xdp = job.early_xdp and bool(composition.early_stages())
    source = write_source(composition, setup.core, job.local, job.hz, early_xdp=early_xdp)
    compile_source(source, job.settings.cache_dir)


@contextmanager
def _bounded(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in whatever runs then, and each second after that; see :func:`_lean`."""

    def stop(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"it was stopped: all plans together took over {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        with _lean():
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _lean() -> Iterator[None]:
    """Bound what memory the block takes in addition; what it cannot have is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, hard))
    try:
        yield
    finally:  # the compiler takes more
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


if __name__ == "__main__":
    main()
