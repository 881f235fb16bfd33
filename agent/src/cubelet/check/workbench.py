"""Shared by the checks of one cube: the other installed cubes, and the compiled compositions."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import Self

from cubelet.check.compositions import LINKS, NoDefaultError, Wanted, alone, default, without
from cubelet.check.findings import UncheckedError, Verified
from cubelet.check.limits import ended
from cubelet.check.subject import Subject
from cubelet.check.traces import open_descriptors, own_pins
from cubelet.composer.compiler import TIMEOUT
from cubelet.cubes.discovery import Discovery, discover
from cubelet.testkit.datapath import Datapath
from cubelet.testkit.network import TestNetwork, build_network, private_network
from cubelet_hooks.cube import Cube

_CPU = 20.0
"""Seconds of the processor's time to plan and load a composition."""


@dataclass(frozen=True)
class Tried:
    """A composition that was tried: its datapath, or the error of making it."""

    wanted: Wanted
    datapath: Datapath | None = None
    error: Exception | None = None


class Workbench:
    """A context manager; at its end all datapaths are closed."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.cube = subject.cube
        self.verified: list[Verified] = []
        self.obstacles: list[str] = []
        """Why some compositions were not tried."""
        self.endless = ""
        """What the cube did not end: it is not asked anything else then."""
        self.descriptors = open_descriptors()
        self.pins = own_pins(self.cube.kind)
        self._stack = ExitStack()
        self._tried: list[Tried] | None = None
        self._network: TestNetwork | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @cached_property
    def discovery(self) -> Discovery:
        """The installed plugins without the cube's own kind, which may be of another version."""
        found = discover()
        plugins = tuple(each for each in found.plugins if each.name != self.cube.kind)
        cubes = {kind: cube for kind, cube in found.cubes.items() if kind != self.cube.kind}
        return replace(found, plugins=plugins, cubes=cubes)

    @property
    def others(self) -> Mapping[str, type[Cube]]:
        """The other cubes that are installed, by kind."""
        return self.discovery.cubes

    def tried(self) -> list[Tried]:
        """Every composition, compiled once. Raises UncheckedError without root or BCC."""
        if self._tried is None:
            self._need_root_and_bcc()
            self._tried = []
            self._stack.enter_context(private_network())
            self._stack.callback(self.close)
            self._network = build_network()
            for wanted in self._wanted():
                self._tried.append(self._try(wanted, self._network))
        return self._tried

    def only_it(self) -> Mapping[str, bytes]:
        """The programs' code where the cube's functions are programs of their own.

        Raises UncheckedError if these do not load.
        """
        for wanted, datapath in self.datapaths():
            if wanted.mode == LINKS:
                return datapath.compiled.code
        raise UncheckedError(f"it does not run by {LINKS}: see the check of its programs")

    def without_cube(self) -> Mapping[str, bytes]:
        """The same without the cube."""
        self.tried()
        assert self._network is not None
        tried = self._try(without(self.cube, self.others), self._network)
        if tried.datapath is None:
            raise UncheckedError(f"what the core calls is not known: {tried.error}")
        with closing(tried.datapath):
            return tried.datapath.compiled.code

    def datapaths(self) -> Iterator[tuple[Wanted, Datapath]]:
        """The compositions that loaded. Raises UncheckedError if none did."""
        made = [(each.wanted, each.datapath) for each in self.tried() if each.datapath]
        if not made:
            raise UncheckedError("no composition with it runs: see the check of its programs")
        return iter(made)

    def close(self) -> None:
        """Close all datapaths."""
        for each in self._tried or ():
            if each.datapath is not None:
                each.datapath.close()
        self._tried = []

    def _wanted(self) -> Iterator[Wanted]:
        for wanted in (alone(self.cube, self.others), default(self.cube, self.discovery)):
            try:
                yield from wanted
            except NoDefaultError as error:
                self.obstacles.append(str(error))

    @staticmethod
    def _try(wanted: Wanted, network: TestNetwork) -> Tried:
        try:
            with ended(cpu=_CPU, real=2 * TIMEOUT):  # the compiler is another process
                datapath = Datapath(
                    network,
                    wanted.stacks,
                    wanted.core,
                    mode=wanted.mode,
                    directions=wanted.directions,
                )
        except Exception as error:  # of the compiler or of the cube's own code
            return Tried(wanted, error=error)
        return Tried(wanted, datapath)

    @staticmethod
    def _need_root_and_bcc() -> None:
        if os.geteuid():
            raise UncheckedError("programs are loaded into the kernel: run it as root (sudo)")
        if importlib.util.find_spec("bcc") is None:
            remedy = "apt install python3-bpfcc; the environment needs --system-site-packages"
            raise UncheckedError(f"BCC is missing: {remedy}")
