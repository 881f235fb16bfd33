"""The page ``/metrics``, which is answered also while a pass blocks the datapath thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from cubelet.datapath.thread import OnDatapath
from cubelet.metrics.recorder import Recorder

Section = Callable[[], Iterable[Metric]]

_PATIENCE = 2.0
"""Seconds to wait for the maps' metrics while a pass runs: Prometheus gives up after 10."""


class Page(Collector):
    """Puts sections of metrics together; their names identify those that fail.

    Sections ``of_maps`` run by ``on_datapath``, once for all concurrent scrapes. If that takes too
    long, a scrape gets the figures of the last time.
    """

    def __init__(
        self,
        recorder: Recorder,
        sections: Mapping[str, Section],
        of_maps: Mapping[str, Section],
        on_datapath: OnDatapath,
        patience: float = _PATIENCE,
    ) -> None:
        self._recorder = recorder
        self._sections = sections
        self._of_maps = of_maps
        self._on_datapath = on_datapath
        self._patience = patience
        self._reading: asyncio.Task[list[Metric]] | None = None
        self._read: list[Metric] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its content type, in the format that a client accepts best."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_maps())
        await asyncio.wait([self._reading], timeout=self._patience)
        if self._reading.done():
            self._read = self._reading.result()
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    async def _read_maps(self) -> list[Metric]:
        found: list[Metric] = await self._on_datapath(self._collected, self._of_maps)
        return found

    def collect(self) -> Iterator[Metric]:
        """All families, those of maps as they were read last."""
        yield from self._collected(self._sections)
        yield from self._read
        yield from self._recorder.collect()

    def _collected(self, sections: Mapping[str, Section]) -> list[Metric]:
        """The families of the sections; one that fails is left out."""
        found: list[Metric] = []
        for name, section in sections.items():
            try:
                found += section()
            except Exception as error:  # a failure must not hide the other sections
                self._recorder.failed(name, error)
            else:
                self._recorder.worked(name)
        return found
