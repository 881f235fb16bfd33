"""A server that misbehaves: afterwards the state is what its objects demand, and no sooner asked.

Every test ends with the same comparison: what was emitted, applied to a state, against the
server's own objects, read by the readers of manifests.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from cubelet.lab.apiserver import ApiServer

from .following import Follower, following, node, pod, service, until


def populated(**options: object) -> ApiServer:
    server = ApiServer(**options)  # type: ignore[arg-type]
    for each in (node("node1"), node("node2"), service("web"), service("dns")):
        server.put(each)
    for number in range(7):
        server.put(pod(f"p{number}", f"10.1.0.{number + 2}"))
    return server


def disturb(server: ApiServer) -> None:
    """Changes of every type."""
    server.put(pod("new", "10.1.0.100"))
    server.put(pod("p1", "10.1.0.101"))
    server.put(pod("p2", "10.1.0.102"))
    server.delete("pods", "p3", "default")
    server.put(service("web", 81))
    server.delete("services", "dns", "default")
    server.put(pod("p2", "10.1.0.103"))


async def synced(follower: Follower) -> None:
    await until(lambda: follower.source.has_synced, lambda: follower.problems)
    await until(
        lambda: all(follower.requests(kind, watches=True) for kind in ("Pod", "Service")),
    )


STREAM: dict[str, Callable[[ApiServer], None]] = {
    "duplicate": lambda server: server.faults.duplicate(resource="pods", times=3),
    "reordered": lambda server: server.faults.reorder(resource="pods"),
    "reordered more than once": lambda server: server.faults.reorder(resource="pods", times=2),
    "truncated": lambda server: server.faults.truncate(resource="pods"),
    "truncated more than once": lambda server: server.faults.truncate(resource="pods", times=3),
    "410 within the stream": lambda server: server.faults.drop(resource="pods"),
    "410 twice": lambda server: server.faults.drop(resource="pods", times=2),
}


@pytest.mark.parametrize("fault", STREAM.values(), ids=STREAM)
def test_faults_of_a_running_watch(tmp_path: Path, fault: Callable[[ApiServer], None]) -> None:
    async def run() -> None:
        server = populated()
        async with following(server, tmp_path) as follower:
            await synced(follower)
            fault(server)
            disturb(server)
            await follower.agrees()
            assert follower.requests("Pod") <= 12
            assert follower.requests("Service") == 2

    asyncio.run(run())


def test_duplicates_cost_no_request(tmp_path: Path) -> None:
    async def run() -> None:
        server = populated()
        async with following(server, tmp_path) as follower:
            await synced(follower)
            server.faults.duplicate(resource="pods", times=3)
            disturb(server)
            await follower.agrees()
            assert follower.requests("Pod") == 2

    asyncio.run(run())


@pytest.mark.parametrize("deleted", [False, True])
def test_the_older_of_two_events_does_not_count(tmp_path: Path, deleted: bool) -> None:
    """It comes last: taken at its word it would undo the newer one."""

    async def run() -> None:
        server = populated()
        async with following(server, tmp_path) as follower:
            await synced(follower)
            server.faults.reorder(resource="pods")
            server.put(pod("p1", "10.1.0.101"))
            if deleted:
                server.delete("pods", "p1", "default")
            else:
                server.put(pod("p1", "10.1.0.102"))
            await until(lambda: follower.requests("Pod", watches=True) == 2)
            await follower.agrees()
            assert follower.requests("Pod", watches=False) == 2

    asyncio.run(run())


def test_gaps_between_versions_are_normal(tmp_path: Path) -> None:
    async def run() -> None:
        server = populated()
        async with following(server, tmp_path) as follower:
            await synced(follower)
            server.store.version += 1_000_000
            disturb(server)
            await follower.agrees()
            assert follower.requests("Pod") == 2

    asyncio.run(run())


def test_bookmarks_keep_the_version_fresh(tmp_path: Path) -> None:
    """Where nothing else happens, a watch goes on from a bookmark and needs no list."""

    async def run() -> None:
        server = populated(bookmarks=0.02)
        async with following(server, tmp_path) as follower:
            await synced(follower)
            server.store.version += 10
            version = server.version
            await asyncio.sleep(0.1)
            server.expire_history("services")
            await asyncio.sleep(0.1)
            server.end_watches("services")
            await until(lambda: follower.requests("Service", watches=True) == 2)
            assert follower.requests("Service", watches=False) == 1
            assert int(server.log[-1].query.partition("resourceVersion=")[2].partition("&")[0]) > (
                version
            )
            server.put(service("web", 82))
            await follower.agrees()

    asyncio.run(run())


def test_silence_ends_a_watch(tmp_path: Path) -> None:
    """A half-open connection: events happen, and nothing is received."""

    async def run() -> None:
        server = populated(bookmarks=0.02)
        server.faults.silence(resource="pods")
        async with following(server, tmp_path, idle_seconds=0.15) as follower:
            await synced(follower)
            disturb(server)
            await follower.agrees()
            assert follower.requests("Pod", watches=False) == 1
            assert follower.requests("Pod", watches=True) == 2
            assert follower.requests("Service") == 2, "bookmarks are signs of life"

    asyncio.run(run())


@pytest.mark.parametrize("status", [429, 500, 503, 401])
def test_storms_stay_within_the_backoff(tmp_path: Path, status: int) -> None:
    async def run() -> None:
        server = populated()
        server.faults.answer(status, times=10_000)
        async with following(server, tmp_path) as follower:
            await until(lambda: follower.requests("Pod") >= 8)
            times = [each.time for each in server.log if each.path == "/api/v1/pods"]
            gaps = [after - before for before, after in itertools.pairwise(times)]
            least = [min(0.004 * 2**n, 0.064) * 0.5 for n in range(len(gaps))]
            assert all(gap >= low for gap, low in zip(gaps, least, strict=True)), gaps
            assert not follower.source.has_synced
            assert not follower.changes
            server.faults.clear()
            await follower.agrees()
            await until(lambda: not follower.problems)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "times", "lists"), [(504, 2, 1), (504, 5, 2), (429, 5, 1), (503, 5, 1)]
)
def test_a_watch_that_is_refused_again_and_again(
    tmp_path: Path, status: int, times: int, lists: int
) -> None:
    """First it is asked for again from where it was; then, unless for overload, a list begins."""

    async def run() -> None:
        server = populated()
        async with following(server, tmp_path) as follower:
            await synced(follower)
            server.faults.answer(status, resource="pods", verb="watch", times=times)
            server.end_watches("pods")
            disturb(server)
            await until(lambda: follower.requests("Pod", watches=True) == 2 + times)
            await follower.agrees()
            assert follower.requests("Pod", watches=False) == lists

    asyncio.run(run())


def test_a_storm_hits_a_watch(tmp_path: Path) -> None:
    async def run() -> None:
        server = populated()
        async with following(server, tmp_path) as follower:
            await synced(follower)
            server.faults.answer(500, times=20, resource="pods")
            server.end_watches("pods")
            disturb(server)
            await follower.agrees()
            assert follower.requests("Pod") <= 25

    asyncio.run(run())


def test_retry_after_is_honoured(tmp_path: Path) -> None:
    async def run() -> None:
        server = populated()
        server.faults.answer(429, resource="pods", retry_after=1)
        async with following(server, tmp_path) as follower:
            await follower.agrees()
            first, second, *_ = (e.time for e in server.log if e.path == "/api/v1/pods")
            assert second - first >= 1

    asyncio.run(run())


@pytest.mark.parametrize("after", [0, 30, 200, 400])
def test_a_connection_that_is_cut_removes_nothing(tmp_path: Path, after: int) -> None:
    async def run() -> None:
        server = populated()
        async with following(server, tmp_path, page_size=2) as follower:
            await synced(follower)
            disturb(server)
            server.faults.cut(resource="pods", times=3, after=after)
            server.expire_history("pods")
            server.end_watches("pods")
            await follower.agrees()
            removed = [c.key for c in follower.changes if c.kind == "Pod" and c.new is None]
            assert removed == ["default/p3"]

    asyncio.run(run())


def test_a_cut_watch_goes_on_where_it_was(tmp_path: Path) -> None:
    async def run() -> None:
        server = populated()
        server.faults.cut(resource="pods", verb="watch", times=3, after=900)
        async with following(server, tmp_path) as follower:
            await synced(follower)
            disturb(server)
            await follower.agrees()
            assert follower.requests("Pod", watches=False) == 1

    asyncio.run(run())


def test_slow_answers(tmp_path: Path) -> None:
    async def run() -> None:
        server = populated()
        server.faults.slow(0.1, verb="list", times=5)
        async with following(server, tmp_path, idle_seconds=0.5) as follower:
            await follower.agrees()
            assert follower.requests("Pod", watches=False) == 1

    asyncio.run(run())


def test_an_answer_that_never_comes(tmp_path: Path) -> None:
    async def run() -> None:
        server = populated()
        server.faults.slow(60, resource="pods", verb="list")
        async with following(server, tmp_path, idle_seconds=0.1) as follower:
            await follower.agrees()
            assert follower.requests("Pod", watches=False) == 2

    asyncio.run(run())


def test_continue_tokens_that_expire(tmp_path: Path) -> None:
    """What was deleted between two pages must not stay; the list is then read in one."""

    async def run() -> None:
        server = populated()
        async with following(server, tmp_path, page_size=3) as follower:
            await synced(follower)
            server.faults.slow(0.05, resource="pods", verb="list", times=20)
            server.expire_history("pods")
            server.end_watches("pods")
            await until(lambda: "continue" in server.log[-1].query)
            server.delete("pods", "p0", "default")
            server.expire_continue_tokens()
            server.faults.clear()
            before = follower.requests("Pod", watches=False)
            await follower.agrees()
            assert follower.requests("Pod", watches=False) <= before + 2

    asyncio.run(run())


def test_continue_tokens_that_always_expire(tmp_path: Path) -> None:
    """A list that takes longer than the server remembers has to be read in one."""

    async def run() -> None:
        server = populated()
        server.faults.slow(0.03, resource="pods", verb="list", times=10_000)

        async def forget() -> None:
            while True:
                server.expire_continue_tokens()
                await asyncio.sleep(0.005)

        forgetting = asyncio.create_task(forget())
        async with following(server, tmp_path, page_size=3) as follower:
            await follower.agrees()
            assert follower.requests("Pod", watches=False) == 3
        forgetting.cancel()

    asyncio.run(run())


def test_history_that_is_gone(tmp_path: Path) -> None:
    """An object that vanished while nobody watched is removed by the next list."""

    async def run() -> None:
        server = populated()
        async with following(server, tmp_path) as follower:
            await synced(follower)
            server.faults.silence(resource="pods")
            server.end_watches("pods")
            await until(lambda: follower.requests("Pod", watches=True) == 2)
            disturb(server)
            server.expire_history("pods")
            server.end_watches("pods")
            await follower.agrees()
            assert follower.requests("Pod", watches=False) == 2

    asyncio.run(run())


def test_a_list_that_fails_halfway_removes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        server = populated()
        async with following(server, tmp_path, page_size=3) as follower:
            await synced(follower)
            server.faults.slow(0.03, resource="pods", verb="list", times=20)
            server.expire_history("pods")
            server.end_watches("pods")
            await until(lambda: "continue" in server.log[-1].query)
            for number in range(7):
                server.delete("pods", f"p{number}", "default")
            server.faults.answer(500, resource="pods", times=10_000)
            server.expire_continue_tokens()
            before = follower.requests("Pod")
            await until(lambda: follower.requests("Pod") >= before + 5)
            assert all(change.new is not None for change in follower.changes)
            server.faults.clear()
            await follower.agrees()
            assert not any(
                change.key == "default/p0" and change.new for change in follower.changes[-7:]
            )

    asyncio.run(run())


def test_a_server_that_is_behind(tmp_path: Path) -> None:
    """Restored from a backup, it does not know the version yet that the watches go on from."""

    async def run() -> None:
        server, restored = populated(), populated(bookmarks=0.02)
        disturb(server)
        server.store.version += 1000
        server.put(pod("late", "10.1.0.200"))
        async with contextlib.AsyncExitStack() as stack:
            url = await stack.enter_async_context(server.serving())
            port = int(url.rpartition(":")[2])
            async with following(server, tmp_path, url=url) as follower:
                await follower.agrees()
                await stack.aclose()
                follower.server = restored
                async with restored.serving(port=port):
                    await follower.agrees()
                    await until(lambda: not follower.problems)

    asyncio.run(run())
