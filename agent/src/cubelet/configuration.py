"""Follows the cluster-wide configuration: checked as a whole, put in force whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog

from cubelet.composer.composition import CompositionError
from cubelet.config import KEY, ClusterConfig, parse_config, read_config
from cubelet.memory import Memory
from cubelet.plugins import Discovery
from cubelet.settings import Settings, SettingsError
from cubelet.setup import Setup, make_setup
from cubelet_hooks.objects import Change, ConfigMap

log = structlog.get_logger()


class Configuration:
    """Makes a setup of each new configuration and proposes it.

    ``problem`` says why the present one was refused ('' if it was not); what was in force before
    stays in force. Raises SettingsError or CompositionError at once for a node whose own settings
    allow no setup at all.
    """

    def __init__(
        self,
        settings: Settings,
        discovery: Discovery,
        memory: Memory,
        propose: Callable[[Setup], None],
    ) -> None:
        self._settings = settings
        self._discovery = discovery
        self._memory = memory
        self._propose = propose
        self._config_map: ConfigMap | None = None
        self._begun = False
        self._config = self._candidate = ClusterConfig()
        self._pending = False
        self.problem = ""
        make_setup(settings, ClusterConfig(), discovery)

    def follow(self, changes: Iterable[Change]) -> None:
        """Take in changes of the configuration; at the first call also that there is none."""
        changed = not self._begun
        for change in changes:
            is_ours = change.key == self._settings.kubernetes.config_map
            if change.kind == ConfigMap.kind and is_ours:
                self._config_map = change.new if isinstance(change.new, ConfigMap) else None
                changed = True
        if changed:
            self._take_up()

    def _take_up(self) -> None:
        self._discovery.faults.clear()  # what has changed may have mended them
        try:
            config = read_config(self._config_map)
            self._propose(self._setup(config))
            self._candidate = config
            self._pending = True
        except (SettingsError, CompositionError) as error:
            self.problem = str(error)
            log.error("configuration refused", problem=self.problem)
            if not self._begun:
                self._go_on_with_the_last()
        else:
            self.problem = ""
        self._begun = True

    def _go_on_with_the_last(self) -> None:
        """After a restart the configuration that was in force counts until a good one comes."""
        text = self._memory.known.config
        try:
            self._config = ClusterConfig() if text is None else parse_config(text)
            self._propose(self._setup(self._config, lenient=True))
        except (SettingsError, CompositionError) as error:
            self.problem += f"; nor can the last one be used: {error}"

    def go_on_without(self, faults: Mapping[str, str]) -> None:
        """Quarantine kinds that are in force, or stand in the way of the first setup."""
        self._discovery.faults.update(faults)
        config = self._candidate if self._pending else self._config
        try:
            self._propose(self._setup(config, lenient=True))
        except (SettingsError, CompositionError) as error:
            self.problem = str(error)

    def _setup(self, config: ClusterConfig, lenient: bool = False) -> Setup:
        known = self._memory.known
        return make_setup(
            self._settings, config, self._discovery, known.reasons, lenient, known.slots
        )

    def settle(self, refused: str | None) -> None:
        """A pass has ended: ``refused`` is why what was proposed is not in force, '' if it is.

        None says that it is not decided yet. Raises OSError.
        """
        if not self._pending or refused is None:
            return
        self._pending = False
        self.problem = refused
        if not refused:
            self._config = self._candidate
            found = self._config_map
            self._memory.remember(config=found.data[KEY] if found else None)
