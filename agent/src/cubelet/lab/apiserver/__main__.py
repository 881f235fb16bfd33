"""The API server as a process of its own: `python -m cubelet.lab.apiserver`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cubelet.lab.apiserver import ApiServer
from cubelet.lab.errors import LabError


async def serve(server: ApiServer, address: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; the URL is printed once requests are answered."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server.serving(address, port) as url:
        print(url, flush=True)
        await stop.wait()


def read(state: Path, server: ApiServer) -> None:
    """Load the objects of an earlier server. Raises LabError for a broken file."""
    try:
        server.store.restore(msgspec.json.decode(state.read_bytes()))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise LabError(f"{state}: no state of an API server: {error!r}; remove it") from None


def write(state: Path, server: ApiServer) -> None:
    """Save the objects for the next server; if interrupted, the old file stays."""
    draft = state.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(server.store.dump()))
    os.replace(draft, state)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a server; with ``--state`` it begins with the objects saved in that file."""
    parser = argparse.ArgumentParser(prog="python -m cubelet.lab.apiserver")
    parser.add_argument("--listen", default="127.0.0.1:8001", metavar="ADDRESS:PORT")
    parser.add_argument("--state", type=Path, metavar="FILE", help="keep objects between runs")
    parser.add_argument(
        "--controllers", action="store_true", help="let EndpointSlices follow Services and pods"
    )
    given = parser.parse_args(arguments)
    address, _, port = given.listen.rpartition(":")
    if not address or not port.isdigit():
        parser.error(f"--listen {given.listen}: ADDRESS:PORT is expected")
    server = ApiServer(controllers=given.controllers)
    if given.state and given.state.exists():
        read(given.state, server)
    asyncio.run(serve(server, address, int(port)))
    if given.state:
        write(given.state, server)


if __name__ == "__main__":
    main()
