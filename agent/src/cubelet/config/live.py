"""Follows the cluster-wide configuration, which is put in force as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field

import structlog

from cubelet.composer.composition import CompositionError
from cubelet.config.cluster import KEY, ClusterConfig, parse_config, read_config
from cubelet.config.node import Settings, SettingsError
from cubelet.config.setup import Setup, make_setup
from cubelet.cubes.discovery import Discovery
from cubelet.state.last_known import Memory
from cubelet_hooks.objects import Change, ConfigMap

log = structlog.get_logger()


@dataclass(frozen=True)
class _Offer:
    """A configuration that is proposed: its ``text``, None for the default.

    ``excuse`` says why the wanted one was refused, if this is a substitute for it; ``lenient``
    leaves out unusable cubes. ``faults`` are the kinds that were quarantined before it.
    """

    config: ClusterConfig = field(default_factory=ClusterConfig)
    text: str | None = None
    excuse: str = ""
    lenient: bool = False
    faults: Mapping[str, str] | None = None
    reload: Reload | None = None


@dataclass(frozen=True)
class Reload:
    """Cubes that are to take the place of those that run, if the present configuration is in force
    with them.

    ``told`` is called once, with why it is not ('' if it is); ``give_up`` before it, if it is not.
    """

    discovery: Discovery
    told: Callable[[str], None]
    give_up: Callable[[], None]


class Configuration:
    """Makes a setup of each new configuration and proposes it.

    ``problem`` says why the present one was refused ('' if it was not); the one before it then
    stays in force, after a restart too. The constructor raises SettingsError or CompositionError
    if the node's own settings allow no setup at all, but not for an essential cube that was in
    force and of which nothing can be loaded: then there is no setup, and what is pinned stays.
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
        self._unsure = False
        self._pending = False
        self._reload: Reload | None = None
        self._before: Discovery | None = None
        self._serves = False
        self._essential: frozenset[str] = frozenset()
        self._offered = self._accepted = _Offer()
        self.problem = ""
        if not discovery.lost:
            make_setup(settings, ClusterConfig(), discovery)

    def follow(self, changes: Iterable[Change], complete: bool = True) -> None:
        """Take in changes of the configuration; the first call also settles that there is none.

        Unless the source could read everything (``complete``), a missing one may only be unread:
        then the last one in force is proposed.
        """
        if self._reload is not None and self._begun and not (self._pending and self._serves):
            self._take_over(self._reload)
            self._reload = None
        changed = not self._begun or (self._unsure and complete)
        for change in changes:
            is_ours = change.key == self._settings.kubernetes.config_map
            if change.kind == ConfigMap.kind and is_ours:
                self._config_map = change.new if isinstance(change.new, ConfigMap) else None
                changed = True
        if not changed:
            return
        self._unsure = not complete and self._config_map is None
        if self._unsure:
            self._offer_the_last("")
        else:
            self._take_up()
        self._begun = True

    @property
    def present(self) -> ClusterConfig:
        """The configuration in force."""
        return self._accepted.config

    def reload(self, wanted: Reload) -> None:
        """Let the next pass put other versions of cubes in force, as a whole or not at all."""
        self._reload = wanted

    def _take_over(self, wanted: Reload) -> None:
        """Propose the present configuration, made of these cubes."""
        if not self._serves:  # nothing is in force that could go on
            self._discovery.take_over(wanted.discovery)
            wanted.told(self._take_up())
            return
        self._before = copy(self._discovery)
        self._discovery.take_over(wanted.discovery)
        present = self._accepted
        lenient = present.lenient or bool(wanted.discovery.faults)
        try:
            self._offer(_Offer(present.config, present.text, self.problem, lenient, reload=wanted))
        except (SettingsError, CompositionError) as error:
            self._go_back(wanted, str(error))

    def _go_back(self, given_up: Reload, reason: str) -> None:
        """Have the cubes that run be those that are known."""
        if self._before is not None:
            self._discovery.take_over(self._before)
        self._before = None
        given_up.give_up()
        given_up.told(reason)

    def _take_up(self) -> str:
        """Propose what the ConfigMap says; why it cannot be, '' if it is."""
        faults = dict(self._discovery.faults)
        self._discovery.faults.clear()  # the new configuration may have mended them
        try:
            config = read_config(self._config_map)
            text = self._config_map.data[KEY] if self._config_map else None
            self._offer(_Offer(config, text, faults=faults))
        except (SettingsError, CompositionError) as error:
            self._discovery.faults.update(faults)
            self.problem = str(error)
            log.error("configuration refused", problem=self.problem)
            if not self._begun:
                self._offer_the_last(self.problem)
            return str(error)
        return ""

    def _offer_the_last(self, excuse: str) -> None:
        """Propose the configuration that was in force before the restart."""
        text = self._memory.known.config
        try:
            config = ClusterConfig() if text is None else parse_config(text)
            self._offer(_Offer(config, text, excuse, lenient=True))
        except (SettingsError, CompositionError) as error:
            self._refuse(excuse, str(error))

    def go_on_without(self, faults: Mapping[str, str]) -> None:
        """Quarantine these kinds, and propose the present configuration without them."""
        self._discovery.faults.update(faults)
        present = self._offered if self._pending else self._accepted
        excuse = present.excuse if self._pending else self.problem
        try:
            self._offer(_Offer(present.config, present.text, excuse, lenient=True))
        except (SettingsError, CompositionError) as error:
            self._refuse(excuse, str(error))

    def _offer(self, offer: _Offer) -> None:
        known = self._memory.known
        setup = make_setup(
            self._settings,
            offer.config,
            self._discovery,
            known.reasons,
            lenient=offer.lenient,
            slots=known.slots,
        )
        self._propose(setup)
        self._offered, self._pending = offer, True
        self._essential = _essential(setup)

    def settle(self, refused: str | None, in_force: bool, at_fault: Collection[str] = ()) -> bool:
        """Take in a pass's outcome; True if the proposed configuration is given up now.

        ``refused`` says why it is not in force: '' if it is, None while that is not decided.
        ``in_force`` says whether any composition is, ``at_fault`` which kinds it can go without.
        """
        if not self._pending or refused is None:
            return False
        self._pending = False
        offer = self._offered
        if offer.reload is not None and refused and in_force:
            self._go_back(offer.reload, refused)
            return True
        if not refused:
            self._serves = True
            self._accepted, self.problem = offer, offer.excuse
            if offer.reload is not None:
                self._before = None
                offer.reload.told("")
            self._memory.remember(config=offer.text)
            return False
        self._refuse(offer.excuse, refused)
        if in_force:
            self._discovery.faults.update(offer.faults or {})
            return True
        if offer.text != self._memory.known.config and not self._must_stay(at_fault):
            self._offer_the_last(refused)
            return True
        self._pending = True  # without an alternative it is tried until it is in force
        return False

    def _must_stay(self, at_fault: Collection[str]) -> bool:
        """Whether the default may not stand in for the configuration that a new node begins with.

        It goes on without the kinds ``at_fault`` instead, or waits if an essential one would go.
        """
        known = self._memory.known
        if known.composed or known.config is not None:
            return False  # there is a last one, which was in force
        default = make_setup(self._settings, ClusterConfig(), self._discovery, lenient=True)
        return bool(at_fault) or not self._essential <= _essential(default)

    def _refuse(self, excuse: str, reason: str) -> None:
        nor = "; nor can the last one be used: "
        self.problem = f"{excuse}{nor}{reason}" if excuse and excuse != reason else reason


def _essential(setup: Setup) -> frozenset[str]:
    return frozenset(cube.kind for cube in setup.composition.cubes if cube.essential)
