"""The API server as tests and the lab use it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Future

from aiohttp import web

from cubelet.lab.apiserver.emulator import Access, Emulator
from cubelet.lab.apiserver.faults import Faults
from cubelet.lab.apiserver.history import Stored
from cubelet.lab.apiserver.resources import Resource
from cubelet.lab.apiserver.slices import SliceController
from cubelet.lab.apiserver.store import Object, Store, key_of
from cubelet.lab.apiserver.watching import Pace

_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
_START_LIMIT = 10.0  # seconds until a server in a thread of its own listens
_SHUTDOWN = 0.1  # seconds in which running requests (watches) have to end


class ApiServer:
    """A Kubernetes API server without a cluster: objects change only by requests and calls.

    With ``controllers``, EndpointSlices also follow Services and pods while it serves.

    ``history`` is the number of kept events of each resource, from which watches can resume;
    ``bookmarks`` and ``watch_life`` are seconds; ``tokens`` are the accepted bearer tokens (None:
    all requests are accepted; assign another set at any time). Methods that change objects can be
    called from any thread. ``resource`` arguments are a plural (``pods``), ``plural.group`` or a
    kind.
    """

    def __init__(
        self,
        *,
        history: int = 10_000,
        bookmarks: float = 60.0,
        watch_life: float = 1800.0,
        tokens: Iterable[str] | None = None,
        controllers: bool = False,
    ) -> None:
        self._controllers = controllers
        self.store = Store(history)
        self._emulator = Emulator(self.store, Pace(bookmarks, watch_life))
        self.tokens = None if tokens is None else set(tokens)
        for name in _NAMESPACES:
            label = {"kubernetes.io/metadata.name": name}
            self.put({"kind": "Namespace", "metadata": {"name": name, "labels": label}})

    @property
    def mock(self) -> Emulator:
        """The kmock handler, for reactions of a test's own: ``server.mock["get /x"] << b"y"``."""
        return self._emulator

    @property
    def faults(self) -> Faults:
        """The faults to inject."""
        return self._emulator.faults

    @property
    def log(self) -> list[Access]:
        """The requests so far, the latest last."""
        return self._emulator.log

    @property
    def tokens(self) -> set[str] | None:
        """The accepted bearer tokens; None: requests need none."""
        return self._emulator.tokens

    @tokens.setter
    def tokens(self, tokens: set[str] | None) -> None:
        self._emulator.tokens = tokens

    @property
    def version(self) -> int:
        """The resourceVersion of the latest change."""
        return self.store.version

    @contextlib.asynccontextmanager
    async def serving(self, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Serve in this event loop; the URL, at a free port unless one is given."""
        # Cancel a watch whose client is gone: it would wait for events for ever.
        runner = web.ServerRunner(
            web.Server(self._emulator, handler_cancellation=True), shutdown_timeout=_SHUTDOWN
        )
        async with self._emulator, self._controlled():
            await runner.setup()
            try:
                site = web.TCPSite(runner, address, port)
                await site.start()
                yield f"http://{address}:{runner.addresses[0][1]}"
            finally:
                await runner.cleanup()

    @contextlib.asynccontextmanager
    async def _controlled(self) -> AsyncIterator[None]:
        if not self._controllers:
            yield
            return
        task = asyncio.create_task(SliceController(self.store).run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @contextlib.contextmanager
    def running(self, address: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
        """Serve from a thread; the URL. It can be entered again later, with the same objects."""
        loop, stop = asyncio.new_event_loop(), asyncio.Event()
        listening: Future[str] = Future()

        async def serve() -> None:
            try:
                async with self.serving(address, port) as url:
                    listening.set_result(url)
                    await stop.wait()
            except OSError as error:
                listening.set_exception(error)

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
        thread.start()
        try:
            yield listening.result(_START_LIMIT)
        finally:
            if loop.is_running():
                loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()

    def register(self, resource: Resource) -> None:
        """Serve one more kind of objects from now on, as a CustomResourceDefinition does."""
        self.store.register(resource)

    def unregister(self, resource: Resource) -> None:
        """Stop serving a kind: delete its objects, and answer requests for it with 404."""
        self.store.unregister(resource)

    def put(self, manifest: Object) -> Stored:
        """Create an object, or replace it together with its status."""
        resource = self.store.resources.of(manifest)
        with self.store.lock:
            key = key_of(resource, manifest)
            if self.store.has(resource, key):
                return self.store.change(resource, key, lambda _old: manifest)
            return self.store.create(resource, manifest)

    def delete(self, resource: str, name: str, namespace: str = "") -> Stored:
        """Remove an object without a grace period; finalizers still keep it."""
        return self.store.delete(self.store.resources.named(resource), (namespace, name))

    def get(self, resource: str, name: str, namespace: str = "") -> Object:
        """An object. Raises ApiError (404)."""
        return self.store.read(self.store.resources.named(resource), (namespace, name))

    def names(self, resource: str, namespace: str = "") -> list[str]:
        """The names of all objects, or of one namespace's, in the order of lists."""
        found = self.store.all(self.store.resources.named(resource))
        return [each.name for each in found if not namespace or each.namespace == namespace]

    def load(self, resource: str, manifests: Iterable[Object]) -> int:
        """Store many objects at once, before there are watches; returns how many."""
        return self.store.load(self.store.resources.named(resource), manifests)

    def expire_history(self, resource: str) -> None:
        """Forget the events: watches that resume from the present version get a 410."""
        self.store.expire(self.store.resources.named(resource))

    def expire_continue_tokens(self) -> None:
        """Let every list in progress answer its next page with a 410 and a token to continue."""
        self._emulator.lists.expire_tokens()

    def end_watches(self, resource: str) -> None:
        """End a resource's running watches cleanly, as a server does when their time is over."""
        self.store.end_watches(self.store.resources.named(resource))
