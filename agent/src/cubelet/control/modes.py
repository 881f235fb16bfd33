"""Prepares compositions in the mode in which the kernel takes them, and knows why in that one."""

from __future__ import annotations

import structlog

from cubelet.composer.composition import Composition
from cubelet.composer.errors import CompileError
from cubelet.composer.fitting import Fit, fit
from cubelet.config.setup import Setup
from cubelet.datapath.programs import Datapath, Prepared
from cubelet.state.last_known import Memory
from cubelet_hooks.objects import LocalNode

log = structlog.get_logger()
_TOLD = (
    "tail-called, since fused it is refused: {}; every first packet costs more; remedy: `exclude` "
    "cubes that can go, or set `composition: tailcall`"
)


class Modes:
    """What a composition is made of stays; only how its cubes are joined is decided here."""

    def __init__(self, datapath: Datapath, memory: Memory) -> None:
        self._datapath = datapath
        self._memory = memory
        self._unfit: tuple[object, CompileError] | None = None
        self.problem = ""
        """Why what is in force is tail-called though it is wanted fused; '' if it is not."""

    def prepare(self, setup: Setup, wanted: Composition, local: LocalNode) -> Fit[Prepared | None]:
        """Prepare a composition, tail-called if the kernel refuses it fused.

        Fused it is tried again when other cubes, or they elsewhere, are composed: constants hardly
        change what is refused. Raises CompileError, naming the cube at fault if one is found, and
        what else :meth:`Datapath.prepare` raises.
        """
        place = (setup, wanted.facts.needed)
        fitted = fit(
            wanted,
            lambda each: self._datapath.prepare(each, setup.core, local),
            lambda each: self._datapath.verify(each, setup.core, local),
            self._unfit[1] if self._unfit and self._unfit[0] == place else None,
        )
        self._unfit = (place, fitted.refusal) if fitted.refusal else None
        return fitted

    def took_over(self, refusal: CompileError | None) -> None:
        """What was prepared is in force; it is in the wanted mode if there is no ``refusal``.

        That is remembered, so that an agent that starts composes it at once, without a compiler.
        """
        problem = _TOLD.format(refusal) if refusal else ""
        if problem and problem != self.problem:
            log.warning("tail-called, since fused it is refused", reason=str(refusal))
        self.problem = problem
        known = {refusal.identity: str(refusal)} if refusal and refusal.identity else {}
        self._memory.remember(refused=known)
