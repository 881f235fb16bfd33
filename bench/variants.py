"""The compared programs, all on the same maps: composed in two ways, and hand-written."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.cluster import CUBES
from bench.passthrough import passthroughs
from cubelet.bpf.constants import MapFlags
from cubelet.bpf.constants import MapType as KernelType
from cubelet.bpf.folders import private_folder
from cubelet.bpf.jiffies import Clock
from cubelet.bpf.layout import MapLayout
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.programs import BpfProgram, load
from cubelet.composer.compiler import Compiled, compile_source
from cubelet.composer.composition import Chain, Mode, compose, default_chain
from cubelet.composer.core import JUMPS
from cubelet.composer.layout import MapSpec
from cubelet.composer.loader import load_programs
from cubelet.composer.rename import rename
from cubelet.composer.source import Source, write_source
from cubelet.testkit import Datapath
from cubelet.testkit.datapath import CACHE
from cubelet_hooks.cube import Cube

_AFTER_VERDICTS = ("cubelet_error", "cubelet_related", "cubelet_floods")
FOLDER = Path(__file__).parent
FEED_BYTES = 72
FUSED: Final = "fused"
TAILCALL: Final = "tailcall"
MONOLITH, NOTHING = "monolith", "nothing"
PASSTHROUGHS = 10
LONGER: Mapping[Mode, str] = {
    FUSED: f"{FUSED}+{PASSTHROUGHS}",
    TAILCALL: f"{TAILCALL}+{PASSTHROUGHS}",
}
"""Names of the variants with ten more pass-through cubes, by mode."""
TARGET_SLOT = 255
"""``BENCH_JUMP_TARGET``."""

_FEED = MapSpec(
    "bench",
    "feed",
    MapLayout(KernelType.ARRAY, 4, FEED_BYTES, 1, MapFlags.MMAPABLE),
    "",
    direct=True,
)


@dataclass(frozen=True)
class Variant:
    """One loaded variant of the datapath. ``feed`` is the program to time: it jumps to ``entry``.

    ``first`` are the programs that a pod's first packet may pass.
    """

    name: str
    feed: BpfProgram
    first: Mapping[str, BpfProgram]

    @property
    def entry(self) -> BpfProgram:
        """The program by which pods' frames enter."""
        return next(iter(self.first.values()))


@dataclass(frozen=True)
class Recipe:
    """The source of a variant: a composition, a hand-written program, or both.

    With both, ``by_hand`` is entered first, and passes packets it does not handle to the
    composition.
    """

    name: str
    composed: Compiled | None
    by_hand: Compiled | None = None


class Workshop:
    """Compiles the variants for a datapath, and loads them onto its maps as often as asked."""

    def __init__(self, path: Datapath) -> None:
        self._path = path
        with Clock() as clock:
            self._hz = clock.hz
        self._base = default_source(path, self._hz, "fused")
        self._feed = self._by_hand("feed", "bench_feed")
        self.feed_map = BpfMap.create(_FEED.c_name, _FEED.layout)
        self.recipes = tuple(self._recipes())

    def close(self) -> None:
        """Close the map."""
        self.feed_map.close()

    def _recipes(self) -> Iterator[Recipe]:
        core = compiled(self._base)
        yield Recipe(FUSED, core)
        yield Recipe(TAILCALL, compiled(default_source(self._path, self._hz, "tailcall")))
        yield Recipe(MONOLITH, core, self._by_hand("monolith", "monolith_pod"))
        yield Recipe(NOTHING, None, self._by_hand("nothing", "bench_nothing"))
        with TemporaryDirectory(prefix="cubelet-bench-") as folder:
            more = passthroughs(PASSTHROUGHS, Path(folder))
            for mode, name in LONGER.items():
                yield Recipe(name, compiled(default_source(self._path, self._hz, mode, more)))

    def _by_hand(self, file: str, program: str) -> Compiled:
        """Compile a C file of this folder, which uses the cubes' maps by kind, and the feed map."""
        body = (FOLDER / f"{file}.bpf.c").read_text()
        for kind in CUBES:
            body = rename(body, kind, f"{kind}0")
        number = len(self._base.specs)
        lines = (
            f"#define bench_feed_value bpf_pseudo_fd(2, CUBELET_FD_{number})",
            f'#line 1 "{file}.bpf.c"',
            body,
        )
        return compiled(
            replace(
                self._base,
                text="\n".join(lines),
                specs=(*self._base.specs, _FEED),
                programs=(program,),
                jumps={},
            )
        )

    @contextmanager
    def loaded(self, recipes: Sequence[Recipe] | None = None) -> Iterator[list[Variant]]:
        """Load these recipes, or all: each time at other addresses of code and scratch memory."""
        with ExitStack() as stack:
            yield [self._load(recipe, stack) for recipe in recipes or self.recipes]

    def _load(self, recipe: Recipe, stack: ExitStack) -> Variant:
        own = {
            spec.c_name: stack.enter_context(BpfMap.create(spec.c_name, spec.layout))
            for spec in self._base.specs
            if spec.per_composition
        }
        maps = {**self._path.maps, _FEED.c_name: self.feed_map, **own}
        first: dict[str, BpfProgram] = {}
        if recipe.composed:
            programs = load_programs(recipe.composed, maps)
            stack.callback(programs.close)
            judge = {n: p for n, p in programs.others.items() if n not in _AFTER_VERDICTS}
            first = {"cubelet_pod": programs.entries["pod"], **judge}
        if recipe.by_hand:
            first = {program.name: program for program in _load(recipe.by_hand, maps, stack)}
        (feed,) = _load(self._feed, maps, stack)
        variant = Variant(recipe.name, feed, first)
        own[f"cubelet_{JUMPS}"].update(
            TARGET_SLOT.to_bytes(4, sys.byteorder), variant.entry.fd.to_bytes(4, sys.byteorder)
        )
        return variant


def default_source(path: Datapath, hz: int, mode: Mode, extra: Sequence[type[Cube]] = ()) -> Source:
    """The default chain as production runs it on ``path``, ``extra`` cubes behind pods' stack."""
    chain = default_chain()
    stacks = dict(chain.stacks)
    stacks["pod"] = (*stacks["pod"], *(cube.kind for cube in extra))
    composition = compose(
        Chain(core=chain.core, stacks=stacks),
        {**CUBES, **{cube.kind: cube for cube in extra}},
        mode=mode,
    )
    composition = composition.specialised(composition.facts_of(path.state))
    return write_source(composition, path.core, path.network.local, hz)


def compiled(source: Source) -> Compiled:
    """Its bytecode."""
    return compile_source(source, private_folder(CACHE))


def _load(compiled: Compiled, maps: Mapping[str, BpfMap], stack: ExitStack) -> list[BpfProgram]:
    fds = {number: maps[spec.c_name].fd for number, spec in enumerate(compiled.specs)}
    return [
        stack.enter_context(load(insns, name, relocations=fds))
        for name, insns in compiled.code.items()
    ]
