"""Pods that are deleted while no agent answers, or while its datapath is stuck."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cubelet.net import NetError
from cubelet_hooks.objects import Port

from .test_service import Node, name_of, node, params
from .test_state import record, start_anew

__all__ = ["node"]


def note_deletion(node: Node, container: str) -> Path:
    folder = node.state_dir / "agent.sock.deleted"
    folder.mkdir(exist_ok=True)
    note = folder / f"{container}:eth0"
    note.touch()
    return note


def test_what_was_deleted_without_an_agent_is_removed_at_the_start(node: Node) -> None:
    node.do("ADD", "c1")
    node.do("ADD", "c2")
    note = note_deletion(node, "c1")
    note_deletion(node, "never")
    start_anew(node)
    assert node.left == (name_of("c2"), "c2", record(node, "c2").name, "shop/pod-c2")
    assert list(note.parent.iterdir()) == []


def test_a_deletion_that_fails_at_the_start_is_tried_again(node: Node) -> None:
    node.do("ADD")
    note = note_deletion(node, "c1")
    node.wiring.failing["unwire"] = NetError("busy")
    start_anew(node)
    assert note.exists()
    assert [each.container_id for each in node.ipam.leases] == ["c1"]
    node.wiring.failing.clear()
    start_anew(node)
    assert (node.left, note.exists()) == ((), False)


def test_an_agent_that_did_not_answer_makes_it_good(node: Node) -> None:
    node.do("ADD", "c1")
    node.do("ADD", "c2")
    note = note_deletion(node, "c1")

    async def main() -> None:
        rounds = asyncio.create_task(node.service.run())
        async with asyncio.timeout(5):
            while note.exists():
                await asyncio.sleep(0.01)
        rounds.cancel()

    asyncio.run(main())
    assert node.left == (name_of("c2"), "c2", record(node, "c2").name, "shop/pod-c2")


def test_a_container_that_is_added_again_is_not_the_one_deleted_before(node: Node) -> None:
    node.do("ADD")
    note = note_deletion(node, "c1")
    node.do("ADD")
    assert not note.exists()
    assert [port.ifindex for port in node.ports] == [12]
    start_anew(node)
    assert [port.ifindex for port in node.ports] == [12]


def test_a_noted_pods_address_is_not_given_to_another(node: Node) -> None:
    first = node.do("ADD", "c1")["ips"]
    note_deletion(node, "c1")
    assert node.do("ADD", "c2")["ips"] != first


def test_del_does_not_wait_for_a_datapath_that_is_stuck(node: Node) -> None:
    node.attach_timeout = 0.05
    node.start()
    node.do("ADD")

    async def never(port: Port) -> None:
        await asyncio.sleep(60)

    node.detach = never  # type: ignore[method-assign]
    node.start()
    node.do("DEL")
    assert (node.wiring.links, node.ipam.leases) == ({}, ())


def test_a_call_that_was_being_read_is_waited_for(node: Node) -> None:
    async def main() -> None:
        async def add_another() -> None:
            node.on_attach = None
            later.append(asyncio.create_task(node.call("ADD", "c2")))

        later: list[asyncio.Task[object]] = []
        node.on_attach = add_another
        first = asyncio.create_task(node.service.serve(params("ADD", "c1")))
        await asyncio.sleep(0)
        await node.service.close(5)
        assert first.done()
        assert later[0].done()

    asyncio.run(main())
