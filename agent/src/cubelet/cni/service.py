"""The agent's side of CNI: attaches pods and detaches them (CNI specification 1.1)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import structlog

from cubelet.cni import errors
from cubelet.cni.annotation import requested_address
from cubelet.cni.attachments import Attachment, AttachmentStore, plan_link
from cubelet.cni.call import Call, decode
from cubelet.cni.deletions import Deletions
from cubelet.cni.errors import CniError
from cubelet.cni.ipam import Ipam, Key
from cubelet.cni.locks import KeyedLocks
from cubelet.cni.note import write_note
from cubelet.cni.protocols import CniSettings, Datapath, Wiring
from cubelet.cni.relay import Reply, relay
from cubelet.cni.restore import restore
from cubelet.cni.result import add_result
from cubelet.net import NetError
from cubelet.net.netns import NetnsGone
from cubelet.net.pods import host_ifname
from cubelet_hooks.objects import Address, LocalNode, Pod, Port

log = structlog.get_logger(__name__)

_ROUND = 5.0
"""Seconds between looks for deletions that the plugin has noted."""


class CniService:
    """Handles CNI calls; one at a time for a container, those of different containers at once.

    `find_pod` gives a pod by key, and may wait for one that is not known yet.
    """

    def __init__(
        self,
        settings: CniSettings,
        ipam: Ipam,
        wiring: Wiring,
        datapath: Datapath,
        find_pod: Callable[[str], Awaitable[Pod | None]],
    ) -> None:
        self._attach_timeout = settings.attach_timeout
        self._ipam = ipam
        self._wiring = wiring
        self._datapath = datapath
        self._find_pod = find_pod
        self._store = AttachmentStore(settings.state_dir / "attachments")
        self._deletions = Deletions(settings.socket)
        self._locks, self._turns = KeyedLocks(), KeyedLocks()
        self._running: set[asyncio.Task[dict[str, Any]]] = set()

    def load(self) -> list[Port]:
        """The ports that earlier runs attached; to be called once, before the first call.

        Raises NetError. It blocks: call it by `asyncio.to_thread`.
        """
        restore(self._store, self._ipam, self._wiring, self._deletions)
        return [attachment.port for attachment in self._store]

    async def run(self) -> None:
        """Make good, until cancelled, what runtimes delete while the agent does not answer."""
        while True:
            for key in self._deletions.pending():
                try:
                    async with self._locks.hold(key[0]):
                        await self._make_good(key)
                except Exception as error:  # the note stays, and the next round tries again
                    log.error("cannot make good a deletion", container=key[0], error=str(error))
            await asyncio.sleep(_ROUND)

    async def handle(self, params: Mapping[str, Any]) -> Reply:
        """Answer the plugin's request `params` (see `cubelet.cni.relay`)."""
        return await relay(self.serve, params)

    async def serve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Serve one call; the result to print, empty for all but ADD. Raises CniError.

        A call goes on when its caller goes away; later calls of the container wait for it.
        """
        operation = asyncio.create_task(self._run(decode(params)))
        self._running.add(operation)
        operation.add_done_callback(self._ended)
        return await asyncio.shield(operation)

    async def close(self, seconds: float | None = None) -> None:
        """Wait for the calls under way, at most `seconds`; None waits without limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._running:  # a request that was being read may still become a call
                    await asyncio.wait(self._running)

    def _ended(self, operation: asyncio.Task[dict[str, Any]]) -> None:
        self._running.discard(operation)
        if not operation.cancelled():
            operation.exception()  # else asyncio logs it as never retrieved if the caller is gone

    async def _run(self, call: Call) -> dict[str, Any]:
        try:
            match call.command:
                case "STATUS":
                    return self._status()
                case "GC":
                    return await self._collect(call)
            async with self._locks.hold(call.container_id):
                await self._make_good(call.key)
                match call.command:
                    case "ADD":
                        return await self._add(call)
                    case "DEL":
                        return await self._delete(call)
                    case "CHECK":
                        return await self._check(call)
        except CniError:
            raise
        except NetnsGone as error:
            raise CniError(errors.INVALID_ENVIRONMENT, f"CNI_NETNS: {error}") from error
        except NetError as error:
            raise CniError(errors.WIRING_FAILED, str(error)) from error
        except Exception as error:
            log.exception("CNI call failed", command=call.command, container=call.container_id)
            raise CniError(errors.INTERNAL, f"{call.command} failed", repr(error)) from error

    async def _add(self, call: Call) -> dict[str, Any]:
        local = self._datapath.local()
        if local is None:
            raise CniError(errors.TRY_AGAIN_LATER, "the agent has not set up this node yet")
        attachment = self._store.get(call.key)
        if attachment is not None and await self._is_intact(attachment, call):
            await self._program(attachment.port)
        else:
            if attachment is not None:
                await self._remove(call.key)
            attachment = await self._attach(call, local)
        return add_result(attachment, call.config.version, call.config.dns)

    async def _is_intact(self, attachment: Attachment, call: Call) -> bool:
        if attachment.link.netns != call.netns:
            return False
        try:
            await asyncio.to_thread(self._wiring.check, attachment.link, attachment.ifindex)
        except NetError as error:
            log.warning("wiring a pod anew", port=attachment.port.key, why=str(error))
            return False
        return True

    async def _attach(self, call: Call, local: LocalNode) -> Attachment:
        requested = await self._requested_address(call)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(
                _undo, partial(asyncio.to_thread, self._ipam.release, call.key)
            )
            address = await asyncio.to_thread(
                self._ipam.allocate, local.pod_cidr, call.key, requested
            )
            link = plan_link(call, local, address)
            async with self._turns.hold("wire"):  # in parallel they would only spin in the kernel
                ifindex = await asyncio.to_thread(self._wiring.wire, link)
            undo.push_async_callback(
                _undo, partial(asyncio.to_thread, self._wiring.unwire, link.host_ifname)
            )
            attachment = Attachment.of(call, link, ifindex)
            undo.push_async_callback(_undo, partial(self._datapath.detach, attachment.port))
            await self._program(attachment.port)
            undo.push_async_callback(
                _undo, partial(asyncio.to_thread, self._store.forget, call.key)
            )
            await asyncio.to_thread(self._store.save, attachment)
            # Bring it up last, so that no packet of the pod passes before its policies apply.
            note = write_note(attachment)
            await asyncio.to_thread(self._wiring.bring_up, link.host_ifname, note)
            undo.pop_all()
        return attachment

    async def _requested_address(self, call: Call) -> Address | None:
        if not call.args.name:
            return None
        pod = await self._find_pod(f"{call.args.namespace}/{call.args.name}")
        return requested_address(pod) if pod is not None else None

    async def _program(self, port: Port) -> None:
        try:
            async with asyncio.timeout(self._attach_timeout):
                await self._datapath.attach(port)
        except TimeoutError:
            raise CniError(
                errors.TRY_AGAIN_LATER,
                f"the datapath did not take in {port.key} within {self._attach_timeout:g} s",
            ) from None
        except CniError:
            raise
        except Exception as error:
            raise CniError(
                errors.NOT_PROGRAMMED, f"the datapath did not take in {port.key}", str(error)
            ) from error

    async def _delete(self, call: Call) -> dict[str, Any]:
        await self._remove(call.key)
        return {}

    async def _make_good(self, key: Key) -> None:
        if self._deletions.noted(key):
            await self._remove(key)
            self._deletions.forget(key)

    async def _remove(self, key: Key) -> None:
        """Detach the interface as far as it exists; the record goes last, to allow another try."""
        attachment = self._store.get(key)
        # Delete the device first: the kernel then detaches its program, in a fraction of the time.
        await asyncio.to_thread(self._wiring.unwire, host_ifname(*key))
        if attachment is not None:
            await self._detach(attachment.port)
        await asyncio.to_thread(self._forget, key)

    async def _detach(self, port: Port) -> None:
        """Have the datapath drop a port whose device is gone; a busy or ending one does it later.

        No pod gets the address before: its ADD waits for a pass that comes after this one.
        """
        try:
            async with asyncio.timeout(self._attach_timeout):
                await self._datapath.detach(port)
        except TimeoutError:
            log.warning("a pod goes before the datapath has dropped it", port=port.key)
        except CniError as error:
            if error.code != errors.TRY_AGAIN_LATER:
                raise

    def _forget(self, key: Key) -> None:
        self._store.forget(key)
        self._ipam.release(key)

    async def _check(self, call: Call) -> dict[str, Any]:
        attachment = self._store.get(call.key)
        if attachment is None:
            raise CniError(errors.CHECK_FAILED, "this container is not attached")
        address = f"{attachment.link.address}/{attachment.link.prefix_length}"
        prev = call.config.prev_result
        if prev is not None and address not in {ip.address for ip in prev.ips}:
            raise CniError(errors.CHECK_FAILED, f"prevResult lacks the pod's address {address}")
        try:
            await asyncio.to_thread(self._wiring.check, attachment.link, attachment.ifindex)
        except NetError as error:
            raise CniError(errors.CHECK_FAILED, str(error)) from error
        return {}

    def _status(self) -> dict[str, Any]:
        if self._datapath.local() is None:
            raise CniError(errors.NOT_AVAILABLE, "the agent has not set up this node yet")
        return {}

    async def _collect(self, call: Call) -> dict[str, Any]:
        if call.config.valid is None:
            raise CniError(errors.INVALID_CONFIG, "GC needs cni.dev/valid-attachments")
        keep = {(valid.container_id, valid.ifname) for valid in call.config.valid}
        failed: list[str] = []
        for key in self._stale(call.config.name, keep):
            try:
                async with self._locks.hold(key[0]):
                    await self._remove(key)
            except Exception as error:
                failed.append(f"{key[0]} {key[1]}: {error}")
        await asyncio.to_thread(self._unwire_unknown, keep)
        if failed:
            raise CniError(
                errors.WIRING_FAILED, "some attachments could not be removed", "; ".join(failed)
            )
        return {}

    def _stale(self, network: str, keep: set[Key]) -> list[Key]:
        """The network's attachments that are not in `keep`, and addresses without an attachment.

        Keys of a call under way are left out.
        """
        recorded = self._store.host_ifnames
        leased = [k for k in self._leased() if host_ifname(*k) not in recorded]
        found = [a.key for a in self._store if a.network in (network, "")] + leased
        return [key for key in found if key not in keep and not self._locks.busy(key[0])]

    def _unwire_unknown(self, keep: set[Key]) -> None:
        # List the devices before the leases: an ADD takes its address before it makes the device.
        wired = self._wiring.list_wired()
        held = {host_ifname(*key) for key in (*self._leased(), *keep)}
        for name in wired.keys() - held - set(self._store.host_ifnames):
            self._wiring.unwire(name)

    def _leased(self) -> list[Key]:
        return [lease.key for lease in self._ipam.leases]


async def _undo(step: Callable[[], Awaitable[object]]) -> None:
    """Run one step of the undoing; an error is logged, so that the remaining steps still run."""
    try:
        await step()
    except Exception:
        log.exception("cannot roll back a failed ADD")
