"""Opens the agent's source: a folder of manifests, or the API server."""

from __future__ import annotations

from collections.abc import Callable

from cubelet.config.node import Settings
from cubelet.cubes.discovery import Discovery
from cubelet.sources.feed import Emit, Feed, Free
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
    free: Free,
) -> Feed:
    """The feed that the settings ask for. ``wake`` is called when its problems change.

    ``free`` is called with the API server's addresses while it cannot be reached.
    """
    if settings.source == "manifests":
        return FolderFeed(settings, discovery, state, emit, wake)
    from cubelet.sources.api.feed import ApiFeed

    kept = discovery.annotations
    return ApiFeed(settings, memory, state, emit, wake, annotations=kept, free=free)
