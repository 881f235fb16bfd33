"""TLS: authorities, client certificates, and what happens when they are replaced."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cubelet.lab.apiserver import ApiServer

from .following import following, kubeconfig, pod, until

_USER = "client-certificate: {0}/client.crt, client-key: {0}/client.key"


def openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def authority(folder: Path) -> Path:
    """A folder with an authority, and a server's and a client's certificate from it."""
    folder.mkdir()
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    marks = ["-addext", "keyUsage=critical,keyCertSign", "-subj", "/CN=authority"]
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.crt", *marks, folder=folder)
    extension = "subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n"
    (folder / "extension").write_text(extension)
    for name in ("server", "client"):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"]
        openssl("req", *new[:5], *files, folder=folder)
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1"]
        signed += ["-in", f"{name}.csr", "-out", f"{name}.crt", "-extfile", "extension"]
        openssl("x509", "-req", *signed, folder=folder)
    return folder


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("tls")
    return authority(root / "one"), authority(root / "other")


@contextlib.asynccontextmanager
async def secured(plain: str, folder: Path, port: int = 0) -> AsyncIterator[str]:
    """Serve a server at ``plain`` over TLS to clients with a certificate of the authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.crt"))
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", int(plain.rpartition(":")[2]))
        for pair in ((reader, there[1]), (there[0], writer)):
            task = asyncio.create_task(copy(*pair))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(join, "127.0.0.1", port, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def trusting(folder: Path, url: str, authority: Path) -> Path:
    """A kubeconfig whose authority and client certificate are those of a folder."""
    own = folder / "own"
    own.mkdir(exist_ok=True)
    path = kubeconfig(own, url, _USER.format(authority))
    trusted = f'{url}", certificate-authority: "{authority}/ca.crt"'
    path.write_text(path.read_text().replace(f'{url}"', trusted))
    return path


def test_a_client_certificate(tmp_path: Path, authorities: tuple[Path, Path]) -> None:
    async def run() -> None:
        one, _ = authorities
        server = ApiServer()
        server.put(pod("a"))
        async with server.serving() as plain, secured(plain, one) as url:
            path = trusting(tmp_path, url, one)
            async with following(server, tmp_path, url=url, kubeconfig=path) as follower:
                await follower.agrees()

    asyncio.run(run())
    gc.collect()


def test_an_authority_that_is_replaced(tmp_path: Path, authorities: tuple[Path, Path]) -> None:
    """A cluster that gets another authority: its files are read again until they fit."""

    async def run() -> None:
        one, other = authorities
        server = ApiServer()
        server.put(pod("a"))
        async with server.serving() as plain, contextlib.AsyncExitStack() as stack:
            async with secured(plain, one) as url:
                path = trusting(tmp_path, url, one)
                on = following(server, tmp_path, url=url, kubeconfig=path, idle_seconds=2.0)
                follower = await stack.enter_async_context(on)
                await follower.agrees()
            async with secured(plain, other, int(url.rpartition(":")[2])):
                await until(lambda: any("certificate" in str(p) for p in follower.problems))
                trusting(tmp_path, url, other)
                server.put(pod("b", "10.1.0.3"))
                await follower.agrees()
                await until(lambda: not follower.problems)
                await stack.aclose()

    asyncio.run(run())
    gc.collect()
