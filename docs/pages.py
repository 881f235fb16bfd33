"""Pages of the site that are written elsewhere, or made from what they describe; for mkdocs.

``./dev docs`` builds the site. README.md is its first page; cubes' READMEs, CONTRIBUTING.md and
others have pages, too. Links between files of the repository are links between pages there. The
commands' page is made from the commands, the catalogue from the packages' metadata and classes.
"""

from __future__ import annotations

import posixpath
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from cubelet.cli.commands import app
from cubelet_hooks.cube import PORT_CLASSES, Cube

ROOT = Path(__file__).parent.parent
CUBES = [
    path.parent
    for each in ("plugins", "examples")
    for path in sorted(ROOT.glob(f"{each}/*/README.md"))
]
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "CHANGELOG.md": "changelog.md",
    **{f"{path.relative_to(ROOT)}/README.md": f"cubes/{path.name}.md" for path in CUBES},
}
"""The page of each file of the repository that has one and is not in docs/."""
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages; called by mkdocs."""
    pages = {page: (ROOT / path).read_text() for path, page in ELSEWHERE.items()}
    for name, content in {**pages, "commands.md": commands(), "catalogue.md": catalogue()}.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Have links to files lead to their pages; called by mkdocs."""
    own = page.file.src_uri
    path = next((p for p, there in ELSEWHERE.items() if there == own), f"docs/{own}")
    return _LINK.sub(lambda found: _there(found[1], path, own) + (found[2] or ""), markdown)


def _there(target: str, path: str, own: str) -> str:
    """The way from the page ``own``, written at ``path``, to the page of the file ``target``."""
    file = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    named = f"{file}/README.md" if (ROOT / file).is_dir() else file
    page = ELSEWHERE.get(named) or named.removeprefix("docs/")
    return posixpath.relpath(page, posixpath.dirname(own) or ".")


def commands() -> str:
    """The page of all commands."""
    root: Any = typer.main.get_command(app)
    intro = "# Commands\n\nWhat `--help` says of each.\n"
    return "\n".join([intro, *_command(root, ("cubelet",))])


def _command(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    context = command.make_context(path[-1], [], resilient_parsing=True)
    yield f"##{'#' * (len(path) > 2)} {' '.join(path)}\n" if len(path) > 1 else ""
    if command.help:
        yield f"{' '.join(command.help.split())}\n"
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            yield from _command(command.get_command(context, name), (*path, name))
        return
    usage = " ".join((*path, *command.collect_usage_pieces(context)))
    yield f"    {usage}\n"
    rows = [each.get_help_record(context) for each in command.params]
    named = [row for row in rows if row and row[0] != "--help"]
    if named:
        yield "| option | meaning |\n|---|---|"
        for option, meaning in named:
            yield f"| `{_cell(option)}` | {_cell(meaning)} |"
        yield ""


def catalogue() -> str:
    """The page of all cubes of the repository."""
    lines = [
        "# Catalogue\n",
        "The cubes of this repository. Those of `examples/` are installed nowhere by themselves.\n",
        "| cube | what it does | where it stands | runs | without it |",
        "|---|---|---|---|---|",
    ]
    for path in CUBES:
        sys.path.append(str(path / "src"))  # the examples are installed nowhere
        project = tomllib.loads((path / "pyproject.toml").read_text())["project"]
        modules = map(import_module, project["entry-points"]["cubelet.cubes"].values())
        cubes = (cube for module in modules for cube in module.cubelet_cubes())
        lines += [_row(cube, path.name, project["description"]) for cube in cubes]
    return "\n".join(lines) + "\n"


def _row(cube: type[Cube], name: str, description: str) -> str:
    early = "before all else (XDP)" if cube.early else ""
    when = early or ("per packet" if cube.per_packet else "per flow")
    ports = (each for each in PORT_CLASSES if each in cube.places())
    where = "core" if cube.core else ", ".join(ports)
    without = "the node does not serve pods" if cube.essential else "the node goes on"
    title = f"[{cube.kind}](cubes/{name}.md)"
    return f"| {title} | {_cell(description)} | {where} | {when} | {without} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
