"""Objects and annotations of a cube's own: read, seen in the view, planned from, and gone again."""

from __future__ import annotations

import asyncio
import contextlib
import textwrap
from collections.abc import AsyncIterator, Iterable
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pluggy
import pytest

from cubelet.config.node import KubernetesSettings, Settings
from cubelet.control.planner import Planner
from cubelet.control.reconciler import Reconciler
from cubelet.cubes.discovery import Discovery
from cubelet.lab.apiserver import ApiServer, resources
from cubelet.sources.annotations import Kept
from cubelet.sources.api import ApiSource
from cubelet.sources.api.pace import Pace
from cubelet.sources.decode import ObjectError, decode_object, with_custom
from cubelet.sources.folder.feed import FolderFeed
from cubelet.sources.problem import Problem
from cubelet.state.cluster import State
from cubelet_hooks import cube as hooks
from cubelet_hooks.cube import Cube, Entry, Unit
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import Change, Custom, Namespace, Node, Pod, Port
from cubelet_hooks.records import U32, U64, Record
from cubelet_hooks.resources import Resource
from cubelet_hooks.view import View

from ..helpers.aio import in_loop, until

BUDGET = Resource("Budget", "example.com/v1beta1", "budgets")
TARIFF = Resource("Tariff", "example.com/v1beta1", "tariffs", namespaced=False)
KINDS = with_custom([BUDGET, TARIFF])
MANIFEST = {
    "apiVersion": "example.com/v1beta1",
    "kind": "Budget",
    "metadata": {"name": "a", "namespace": "shop", "labels": {"app": "a"}},
    "spec": {"bytes": 5, "hours": [{"from": 8}, 12], "exact": True, "note": None},
}
QUICK = Pace(first=0.004, longest=0.032, steady=0.2)


class Key(Record):
    """A pod's port."""

    ifindex: U32


class Left(Record):
    """What the pod may still send."""

    bytes: U64


class Quota(Cube):
    """Gives each pod what its annotation says, else its namespace's, else the Budgets there."""

    kind = "quota"
    watches = (BUDGET, TARIFF)
    annotations = ("quota.example.com/", "example.com/exempt")
    maps: ClassVar[tuple[Map, ...]] = (Map("budgets", MapType.HASH, Key, Left, 1024),)

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        if change.kind in ("Namespace", "Budget"):
            named = change.key.partition("/")[0]
            return [("pod", key) for key, port in view.ports.items() if port.namespace == named]
        return [("pod", change.key)] if change.kind in ("Pod", "Port") else ()

    def plan(self, unit: Unit, view: View) -> Iterable[Entry]:
        port, pod = view.ports.get(unit[1]), view.pods.get(unit[1])
        if port is None or pod is None:
            return
        namespace = view.namespaces.get(pod.namespace)
        given = {**(namespace.annotations if namespace else {}), **pod.annotations}
        budgets = view.custom("Budget").values()
        declared = sum(b.spec["bytes"] for b in budgets if b.namespace == pod.namespace)
        wanted = int(given.get("quota.example.com/bytes", declared))
        if wanted and "example.com/exempt" not in given:
            yield Entry("budgets", Key(ifindex=port.ifindex), Left(bytes=wanted))


DISCOVERY = Discovery((), pluggy.PluginManager("cubelet"), {"quota": Quota})


# Reading


def test_an_object_is_read_as_frozen_plain_values() -> None:
    found = decode_object(MANIFEST, kinds=KINDS)
    assert isinstance(found, Custom)
    assert (found.kind, found.key, found.labels) == ("Budget", "shop/a", {"app": "a"})
    assert found.spec == {"bytes": 5, "hours": ({"from": 8}, 12), "exact": True, "note": None}
    assert found == decode_object(MANIFEST, kinds=KINDS)
    frozen: list[Any] = [found.spec, found.spec["hours"][0]]
    for each in frozen:
        with pytest.raises(TypeError):
            each["bytes"] = 6
    status = {**MANIFEST, "status": {"spent": 3}}
    assert decode_object(status, kinds=KINDS) == found
    assert decode_object({**MANIFEST, "spec": {"bytes": 6}}, kinds=KINDS) != found


def test_a_kind_may_live_outside_namespaces() -> None:
    manifest = {"kind": "Tariff", "metadata": {"name": "night"}}
    assert decode_object(manifest, kinds=KINDS) == Custom("Tariff", "", "night")
    assert decode_object(manifest, kinds=KINDS).key == "night"


@pytest.mark.parametrize(
    ("changed", "field", "message"),
    [
        ({"apiVersion": "example.com/v1"}, "apiVersion", "must be example.com/v1beta1"),
        ({"spec": [1]}, "spec", "must be a mapping"),
        ({"spec": {"a": {5: 1}}}, "spec.a", "the key 5 must be a string"),
        ({"metadata": {"name": "A b"}}, "metadata.name", "lower-case"),
    ],
)
def test_what_is_no_object_of_the_kind_is_told(
    changed: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(ObjectError) as caught:
        decode_object({**MANIFEST, **changed}, kinds=KINDS)
    assert (caught.value.kind, caught.value.field) == ("Budget", field)
    assert message in caught.value.message


def test_of_annotations_those_are_kept_that_cubes_read() -> None:
    kept = Kept(["quota.example.com/", "example.com/exempt"])
    ours = {"quota.example.com/bytes": "5", "example.com/exempt": "", "cubelet.io/x": "y"}
    others = {"example.com/exempt-too": "", "example.org/quota.example.com/a": "", "a": "b"}
    node, namespace = Node("n", annotations=ours), Namespace("n", annotations=ours)
    assert (kept.of(node) is node, kept.of(namespace) is namespace) == (True, True)
    assert kept.of(Namespace("n", annotations={**ours, **others})).annotations == ours
    assert Kept().of(Node("n", annotations=ours)).annotations == {"cubelet.io/x": "y"}


# Planning


def port_of(key: str, ifindex: int) -> Port:
    namespace, _, name = key.partition("/")
    return Port(
        namespace=namespace,
        name=name,
        container_id=name,
        ifname="eth0",
        netns="",
        host_ifname=f"veth{ifindex}",
        ifindex=ifindex,
        mac="02:00:00:00:00:01",
        host_mac="02:00:00:00:00:02",
        addresses=(ip_address("10.1.0.2"),),
        mtu=1500,
    )


class Planned:
    """What the cube wants after each change of the state, by ifindex."""

    def __init__(self) -> None:
        self.state = State()
        self._planner = Planner([Quota("quota0", hooks.Settings())])

    def take(self, *changes: Change) -> dict[int, int]:
        taken = [change for change in map(self.state.apply, changes) if change]
        self._planner.replan(self._planner.units(taken, self.state), self.state)
        held = self._planner.contents()["quota0_budgets"]
        return {Key.unpack(key).ifindex: Left.unpack(raw).bytes for key, raw in held.items()}


def test_a_pods_settings_come_from_it_its_namespace_or_an_object() -> None:
    planned = Planned()
    pod, other = Pod("shop", "a"), Pod("bank", "b")
    took = planned.take(
        *(Change.between(None, each) for each in (pod, other)),
        Change.between(None, port_of("shop/a", 7)),
        Change.between(None, port_of("bank/b", 8)),
    )
    assert took == {}
    budget = Custom("Budget", "shop", "a", spec={"bytes": 5})
    assert planned.take(Change.between(None, budget)) == {7: 5}
    assert planned.state.custom("Budget") == {"shop/a": budget}
    assert planned.state.custom("Tariff") == planned.state.custom("Pod") == {}
    shop = Namespace("shop", annotations={"quota.example.com/bytes": "50"})
    assert planned.take(Change.between(None, shop)) == {7: 50}
    own = Pod("shop", "a", annotations={"quota.example.com/bytes": "500"})
    assert planned.take(Change.between(pod, own)) == {7: 500}
    exempt = Namespace("shop", annotations={"example.com/exempt": ""})
    assert planned.take(Change.between(shop, exempt)) == {}
    assert planned.take(Change.between(exempt, None), Change.between(own, pod)) == {7: 5}
    assert planned.take(Change.between(budget, None)) == {}
    assert [each for each in planned.state if isinstance(each, Custom)] == []


# In the agent


def test_the_kinds_of_a_proposed_setup_are_watched_beside_those_in_force() -> None:
    def setup(*cubes: Cube) -> Any:
        return SimpleNamespace(composition=SimpleNamespace(cubes=cubes))

    budgets = type("Budgets", (Quota,), {"watches": (BUDGET,)})("budgets0", hooks.Settings())
    tariffs = type("Tariffs", (Quota,), {"watches": (TARIFF,)})("tariffs0", hooks.Settings())
    reconciler: Any = SimpleNamespace(_plan=None, _proposed=None)
    watches = vars(Reconciler)["watches"].fget
    assert watches(reconciler) == ()
    reconciler._proposed = setup(budgets)
    assert watches(reconciler) == (BUDGET,)
    reconciler._plan, reconciler._proposed = SimpleNamespace(setup=setup(budgets)), setup(tariffs)
    assert watches(reconciler) == (BUDGET, TARIFF)
    reconciler._plan, reconciler._proposed = SimpleNamespace(setup=setup(tariffs)), None
    assert watches(reconciler) == (TARIFF,)


# From a folder


@contextlib.asynccontextmanager
async def folder_feed(folder: Path) -> AsyncIterator[tuple[FolderFeed, State]]:
    state = State()

    emitted: list[Change | None] = []

    def emit(change: Change) -> None:
        emitted.append(state.apply(change))

    feed = FolderFeed(Settings(manifests=folder), DISCOVERY, state, emit, lambda: None)
    task = asyncio.create_task(feed.run())
    try:
        await feed.begun()
        yield feed, state
        assert None not in emitted, "a change that is none"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


FOLDER = textwrap.dedent("""\
    {apiVersion: v1, kind: Namespace, metadata: {name: shop, annotations: {a: b,
     quota.example.com/bytes: "5"}}}
    ---
    {apiVersion: example.com/v1beta1, kind: BudgetList, items: [
      {metadata: {name: a, namespace: shop}, spec: {bytes: 5}},
      {metadata: {name: b, namespace: shop}, spec: {bytes: 6}}]}
    """)


@in_loop
async def test_a_folder_gives_objects_of_kinds_that_are_watched(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(FOLDER)
    async with folder_feed(tmp_path) as (feed, state):
        assert state.namespaces["shop"].annotations == {"quota.example.com/bytes": "5"}
        assert (state.custom("Budget"), feed.problems) == ({}, [])
        (tmp_path / "all.yaml").write_text(FOLDER.replace("a: b", "a: c"))
        await feed.refresh()
        await feed.watch([BUDGET])
        assert sorted(state.custom("Budget")) == ["shop/a", "shop/b"]
        (tmp_path / "all.yaml").write_text(FOLDER.replace("bytes: 6", "bytes: 7"))
        await feed.refresh()
        assert state.custom("Budget")["shop/b"].spec == {"bytes": 7}
        await feed.watch([TARIFF])
        assert state.custom("Budget") == {}
        (tmp_path / "all.yaml").write_text(FOLDER.replace("bytes: 6", "bytes: 8"))
        await feed.refresh()
        await feed.watch([BUDGET])
        assert state.custom("Budget")["shop/b"].spec == {"bytes": 8}
        (tmp_path / "all.yaml").unlink()
        await feed.refresh()
        assert state.custom("Budget") == {}


@in_loop
async def test_a_folder_learns_what_cubes_read_that_join_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "all.yaml").write_text(FOLDER)
    monkeypatch.setitem(globals(), "DISCOVERY", Discovery((), pluggy.PluginManager("cubelet")))
    async with folder_feed(tmp_path) as (feed, state):
        await feed.watch([BUDGET])
        assert (state.namespaces["shop"].annotations, state.custom("Budget")) == ({}, {})
        await feed.learn(Quota.annotations, {"Budget": BUDGET})
        assert state.namespaces["shop"].annotations == {"quota.example.com/bytes": "5"}
        assert sorted(state.custom("Budget")) == ["shop/a", "shop/b"]
        await feed.learn(Quota.annotations, {"Budget": BUDGET})  # nothing new: nothing comes
        (tmp_path / "all.yaml").unlink()
        await feed.refresh()
        assert (list(state.namespaces), state.custom("Budget")) == ([], {})


# From an API server


@in_loop
async def test_a_server_is_asked_again_for_annotations_of_cubes_that_join(tmp_path: Path) -> None:
    server = ApiServer()
    metadata = {"name": "shop", "annotations": {"a": "b", "quota.example.com/bytes": "5"}}
    server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    async with following(server, tmp_path) as found:
        state = found.state
        assert state.namespaces["shop"].annotations == {"quota.example.com/bytes": "5"}
        await found.source.learn({*Quota.annotations, "a"})
        assert state.namespaces["shop"].annotations == metadata["annotations"]


class Following:
    """A source that follows the stand-in server."""

    def __init__(self, url: str, folder: Path) -> None:
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(
            "{apiVersion: v1, kind: Config, current-context: a, users: [],"
            f" clusters: [{{name: a, cluster: {{server: '{url}'}}}}],"
            " contexts: [{name: a, context: {cluster: a, user: ''}}]}"
        )
        self.state = State()
        self.problems: list[str] = []
        self.source = ApiSource(
            KubernetesSettings(kubeconfig=kubeconfig),
            "node1",
            self._emit,
            self._report,
            annotations=Quota.annotations,
            pace=QUICK,
        )

    def _emit(self, change: Change) -> None:
        assert self.state.apply(change) is not None, f"nothing new: {change}"

    def _report(self, problems: list[Problem]) -> None:
        self.problems = [str(each) for each in problems]


MISSING = (
    "Kubernetes API: Budget: there is no CustomResourceDefinition budgets.example.com "
    "on the server: apply it"
)
SERVED = resources.Resource("example.com", "budgets", "Budget", version="v1beta1")


@contextlib.asynccontextmanager
async def following(server: ApiServer, folder: Path) -> AsyncIterator[Following]:
    async with server.serving() as url:
        found = Following(url, folder)
        task = asyncio.create_task(found.source.run())
        try:
            await found.source.refresh()
            yield found
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def budget(name: str, number: int) -> dict[str, Any]:
    return {
        "apiVersion": SERVED.api_version,
        "kind": "Budget",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"bytes": number},
    }


@in_loop
async def test_a_servers_objects_come_with_the_watch_and_go_with_it(tmp_path: Path) -> None:
    server = ApiServer()
    server.register(SERVED)
    server.put(budget("a", 5))
    async with following(server, tmp_path) as found:
        assert found.state.custom("Budget") == {}
        await found.source.watch([BUDGET], patience=10)
        assert found.state.custom("Budget")["default/a"].spec == {"bytes": 5}
        server.put(budget("a", 6))
        await until(lambda: found.state.custom("Budget")["default/a"].spec == {"bytes": 6})
        server.put(budget("b", 1))
        server.delete("Budget", "a", "default")
        await until(lambda: list(found.state.custom("Budget")) == ["default/b"])
        await found.source.watch([], patience=10)
        assert found.state.custom("Budget") == {}
        server.put(budget("c", 1))
        before = len(server.log)
        await found.source.refresh()
        assert not any("budgets" in each.path for each in server.log[before:])
        assert found.problems == []


@in_loop
async def test_a_kind_that_the_server_does_not_know_holds_nothing_up(tmp_path: Path) -> None:
    server = ApiServer()
    async with following(server, tmp_path) as found:
        async with asyncio.timeout(5):
            await found.source.watch([BUDGET], patience=60)
        assert found.source.has_synced
        assert found.source.knows_custom
        await until(lambda: found.problems)
        assert found.problems == [MISSING]
        async with asyncio.timeout(5):
            await found.source.refresh()

        server.register(SERVED)
        server.put(budget("a", 5))
        await until(lambda: found.state.custom("Budget"))
        await until(lambda: not found.problems)

        # It is deleted, and its objects with it: they are gone, and it is a problem again.
        server.unregister(SERVED)
        await until(lambda: not found.state.custom("Budget"))
        await until(lambda: found.problems)
        await found.source.watch([], patience=0)
        await until(lambda: not found.problems)


@in_loop
async def test_a_kind_is_given_up_on_while_the_server_is_slow_to_tell(tmp_path: Path) -> None:
    server = ApiServer()
    server.register(SERVED)
    server.put(budget("a", 5))
    async with following(server, tmp_path) as found:
        server.mock["/apis/example.com/v1beta1/budgets"] << 500
        await found.source.watch([BUDGET], patience=0.05)
        assert not found.source.knows_custom
        assert found.source.has_synced


@in_loop
async def test_a_servers_namespaces_keep_the_annotations_that_cubes_read(tmp_path: Path) -> None:
    server = ApiServer()
    annotations = {"quota.example.com/bytes": "5", "example.org/other": "6"}
    server.put({"kind": "Namespace", "metadata": {"name": "shop", "annotations": annotations}})
    async with following(server, tmp_path) as found:
        assert found.state.namespaces["shop"].annotations == {"quota.example.com/bytes": "5"}
