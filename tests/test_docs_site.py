"""The site that `./dev docs` makes: it builds without a warning, and what it says is there."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import pytest

from cubelet.cli.commands import app
from cubelet.cubes.discovery import discover

ROOT = Path(__file__).parent.parent


class Links(HTMLParser):
    """Collects where a page leads, what it loads, and its anchors."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See the base."""
        given = dict(attrs)
        self.anchors.add(given.get("id") or "")
        target = given.get("href") if tag in ("a", "link") else given.get("src")
        if target:
            self.targets.append(target)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_: object) -> None:
        """See the base."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the site, which is built and served."""
    folder = tmp_path_factory.mktemp("site")
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as found:
        return str(found.read().decode())


def test_every_page_is_reached_and_no_link_leads_nowhere(site: str) -> None:
    pages: dict[str, Links] = {}
    todo: list[str] = [site]
    files: set[str] = set()
    while todo:
        url = todo.pop()
        if url in pages:
            continue
        pages[url] = Links(read(url))
        for target in pages[url].targets:
            there = urldefrag(urljoin(url, target)).url
            if there.startswith(site) and there.endswith("/"):
                todo.append(there)
            elif there.startswith(site):
                files.add(there)
    for url in files:
        urllib.request.urlopen(url, timeout=10).close()
    for url, page in pages.items():
        for target in page.targets:
            there, anchor = urldefrag(urljoin(url, target))
            if there in pages and anchor:
                assert anchor in pages[there].anchors, f"{url}: {target}"
    written = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert written <= {url.removeprefix(site).strip("/") for url in pages}


def test_all_commands_and_cubes_have_their_place(site: str) -> None:
    commands, catalogue = read(f"{site}commands/"), read(f"{site}catalogue/")
    for each in app.registered_commands:
        name = str(each.name or getattr(each.callback, "__name__", ""))
        assert f"cubelet {name.replace('_', '-')}" in commands
    examples = {path.parent.name for path in (ROOT / "examples").glob("*/pyproject.toml")}
    for kind in {*discover().cubes, *examples}:
        assert f"../cubes/{kind}/" in catalogue
