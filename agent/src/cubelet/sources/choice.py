"""Which source an agent has: a folder of manifests, or the API server."""

from __future__ import annotations

from collections.abc import Callable

from cubelet.config.node import Settings
from cubelet.cubes.discovery import Discovery
from cubelet.sources.feed import Emit, Feed
from cubelet.sources.folder.feed import FolderFeed
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory


def open_feed(
    settings: Settings,
    discovery: Discovery,
    memory: Memory,
    state: State,
    emit: Emit,
    wake: Callable[[], None],
) -> Feed:
    """The feed that the settings ask for. ``wake`` is called when its problems change."""
    if settings.source == "manifests":
        return FolderFeed(settings, discovery, state, emit, wake)
    from cubelet.sources.api.feed import ApiFeed

    return ApiFeed(settings, memory, state, emit, wake, annotations=discovery.annotations)
