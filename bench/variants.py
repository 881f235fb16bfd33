"""The programs that are compared, all on the same maps: composed in two ways, and by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cubelet.bpf.constants import MapFlags
from cubelet.bpf.constants import MapType as KernelType
from cubelet.bpf.jiffies import Clock
from cubelet.bpf.layout import MapLayout
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.programs import BpfProgram, load
from cubelet.composer.compiler import Compiled, compile_source
from cubelet.composer.composition import Chain, Mode, compose, default_chain
from cubelet.composer.core import JUMPS, SCRATCH
from cubelet.composer.layout import MapSpec
from cubelet.composer.loader import Programs, load_programs
from cubelet.composer.rename import rename
from cubelet.composer.source import Source, write_source
from cubelet_hooks.cube import PORT_CLASSES, Cube
from cubelet_hooks.testing import Datapath
from cubelet_hooks.testing.datapath import CACHE

from bench.cluster import CUBES
from bench.passthrough import passthroughs

FOLDER = Path(__file__).parent
FEED_BYTES = 72
FUSED, TAILCALL, MONOLITH, NOTHING = "fused", "tailcall", "monolith", "nothing"
PASSTHROUGHS = 10
LONGER = {mode: f"{mode}+{PASSTHROUGHS}" for mode in (FUSED, TAILCALL)}
"""With ten pass-through cubes more."""
TARGET_SLOT = 255
"""``BENCH_JUMP_TARGET``."""

_FEED = MapSpec(
    "bench", "feed", MapLayout(KernelType.ARRAY, 4, FEED_BYTES, 1, MapFlags.MMAPABLE), "", direct=True
)


@dataclass(frozen=True)
class Variant:
    """One way to make the datapath. ``feed`` is the program to run: it feeds the pods' entry.

    ``opener`` are the programs that a flow's first packet may pass, the entry first.
    """

    name: str
    feed: BpfProgram
    entry: BpfProgram
    opener: Mapping[str, BpfProgram]


class Workshop:
    """Compiles variants and loads them onto a datapath's maps. Closes what it made with `close`."""

    def __init__(self, path: Datapath) -> None:
        self._path = path
        self._made = ExitStack()
        with Clock() as clock:
            self._hz = clock.hz
        self._base = self._composed("fused", ())
        self.feed_map = self._made.enter_context(BpfMap.create("bench_feed", _FEED.layout))
        self._feed = self._compile_feed()

    def close(self) -> None:
        """Let go of programs and maps."""
        self._made.close()

    def _composed(self, mode: Mode, extra: Sequence[type[Cube]]) -> Source:
        """The default chain with ``extra`` cubes behind every stack, as production runs it."""
        chain = default_chain()
        kinds = tuple(cube.kind for cube in extra)
        stacks = {name: (*chain.stacks.get(name, ()), *kinds) for name in PORT_CLASSES}
        composition = compose(
            Chain(core=chain.core, stacks=stacks),
            {**CUBES, **{cube.kind: cube for cube in extra}},
            mode=mode,
        )
        path = self._path
        return write_source(composition, path.core, path.state, path.network.local, self._hz)

    def _compile_feed(self) -> Compiled:
        number = len(self._base.specs)
        define = f"#define bench_feed_value bpf_pseudo_fd(2, CUBELET_FD_{number})\n"
        source = replace(
            self._base,
            text=_source_text("feed"),
            generated=self._base.generated + define,
            specs=(*self._base.specs, _FEED),
            programs=("bench_feed", "bench_nothing"),
            jumps={},
        )
        return compile_source(source, CACHE, {})

    def _maps(self, specs: Sequence[MapSpec]) -> dict[str, BpfMap]:
        """The datapath's maps, with a scratch and jump table of the variant's own."""
        own = (f"cubelet_{JUMPS}", f"cubelet_{SCRATCH}")
        fresh = {
            spec.c_name: self._made.enter_context(BpfMap.create(spec.c_name, spec.layout))
            for spec in specs
            if spec.c_name in own
        }
        return {**self._path.maps, _FEED.c_name: self.feed_map, **fresh}

    def _fed(
        self, name: str, maps: Mapping[str, BpfMap], opener: Mapping[str, BpfProgram]
    ) -> Variant:
        entry = next(iter(opener.values()))
        jumps = maps[f"cubelet_{JUMPS}"]
        jumps.update(TARGET_SLOT.to_bytes(4, "little"), entry.fd.to_bytes(4, "little"))
        feed = self._programs(self._feed, maps)["bench_feed"]
        return Variant(name, feed, entry, opener)

    def _composition(self, source: Source, maps: Mapping[str, BpfMap]) -> Programs:
        programs = load_programs(compile_source(source, CACHE, {}), maps)
        self._made.callback(programs.close)
        return programs

    def _programs(self, compiled: Compiled, maps: Mapping[str, BpfMap]) -> dict[str, BpfProgram]:
        fds = {number: maps[spec.c_name].fd for number, spec in enumerate(compiled.specs)}
        return {
            name: self._made.enter_context(load(insns, name[:15], relocations=fds))
            for name, insns in compiled.code.items()
        }

    def composed(self, name: str, mode: Mode, extra: Sequence[type[Cube]] = ()) -> Variant:
        """The default composition, and more."""
        source = self._composed(mode, extra)
        maps = self._maps(source.specs)
        programs = self._composition(source, maps)
        judge = {
            name: program
            for name, program in programs.others.items()
            if name not in ("cubelet_error", "cubelet_related", "cubelet_floods")
        }
        return self._fed(name, maps, {"cubelet_pod": programs.entries["pod"], **judge})

    def monolith(self) -> Variant:
        """``monolith.bpf.c``. What it does not do itself it leaves to the core's programs."""
        maps = self._maps(self._base.specs)
        self._composition(self._base, maps)
        source = replace(
            self._base, text=_source_text("monolith"), programs=("monolith_pod",), jumps={}
        )
        return self._fed(MONOLITH, maps, self._programs(compile_source(source, CACHE, {}), maps))

    def nothing(self) -> Variant:
        """An empty program: what feeding and the trial run itself cost."""
        maps = self._maps(self._base.specs)
        programs = self._programs(self._feed, maps)
        return self._fed(NOTHING, maps, {"bench_nothing": programs["bench_nothing"]})


def _source_text(name: str) -> str:
    """A source of this folder, which knows the cubes' maps by kind."""
    text = (FOLDER / f"{name}.bpf.c").read_text()
    for kind in CUBES:
        text = rename(text, kind, f"{kind}0")
    return f'#line 1 "{name}.bpf.c"\n{text}'


@contextmanager
def all_variants(path: Datapath) -> Iterator[tuple[BpfMap, list[Variant]]]:
    """Every variant, and the map that feeds them.

    They are composed with five cubes and with ten more, the monolith, and nothing.
    """
    workshop = Workshop(path)
    try:
        with TemporaryDirectory(prefix="cubelet-bench-") as folder:
            more = passthroughs(PASSTHROUGHS, Path(folder))
            variants = [
                workshop.composed(FUSED, "fused"),
                workshop.composed(TAILCALL, "tailcall"),
                workshop.monolith(),
                workshop.composed(LONGER[FUSED], "fused", more),
                workshop.composed(LONGER[TAILCALL], "tailcall", more),
                workshop.nothing(),
            ]
        yield workshop.feed_map, variants
    finally:
        workshop.close()
