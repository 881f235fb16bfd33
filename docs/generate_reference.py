"""Writes docs/reference.md: the contract as its own source documents it.

    python docs/generate_reference.py

What is public in the modules of ``cubelet_hooks``, in its C headers and in the test kit, in the
order in which it stands there. A test holds the committed page equal to what this gives.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/reference.md"
HOOKS = ROOT / "hooks/src/cubelet_hooks"
MODULES = (
    *(
        "hookspecs",
        "cube.base",
        "cube.places",
        "cube.plans",
        "cube.telling",
        "cube.showing",
        "maps",
        "records",
        "buckets",
        "view",
        "objects",
        "addresses",
        "selectors",
        "context",
        "ends",
    ),
    *("metrics", "command", "resources", "flows", "reasons", "helpers"),
)
CUBE_PARTS = ("Placed", "Planned", "Telling", "Showing")
"""Classes that :class:`Cube` is put together from: authors know all as its own."""
TESTKIT = ROOT / "agent/src/cubelet/testkit"
TESTKIT_MODULES = (
    "samples",
    "datapath",
    "contents",
    "network",
    "outlet",
    "plugin",
    "families",
    "twins",
)
HEADERS = (
    *("base", "family", "packet", "verdict", "flow", "epoch", "early", "bucket", "payload"),
    *("socket", "uplink", "parse", "l4", "ip4", "ip6", "extensions", "rewrite"),
)

INTRO = """\
# Reference

<!-- Written by docs/generate_reference.py from the source: change that. -->

Every public class, method and function of the contract between cubelet and its cubes, version
{abi} of its ABI. [Writing a cube](writing-a-cube.md) is where to begin; what the composer generates
for each cube is in [What the composer generates](contract.md).
"""

_ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?([^`]+)`")
_LITERAL = re.compile(r"``([^`]+)``")
_FUNCTION = re.compile(
    r"^CUBELET_INLINE (?P<prototype>[^;{}]*\))\n\{\n.*?^\}$", re.MULTILINE | re.DOTALL
)


def page() -> str:
    """The whole page."""
    parts = [INTRO.format(abi=_abi())]
    parts += ["## Python\n", *(part for name in MODULES for part in _module(HOOKS, name))]
    parts += ["## C\n", *_header("cubelet.h", keep_includes=True)]
    parts += [part for name in HEADERS for part in _header(f"cubelet/{name}.h")]
    parts += ["## The test kit\n", *(p for name in TESTKIT_MODULES for p in _module(TESTKIT, name))]
    return "\n".join(parts).rstrip() + "\n"


def _abi() -> str:
    found = re.search(r"^ABI = (\d+)$", (HOOKS / "cube/base.py").read_text(), re.MULTILINE)
    assert found
    return found[1]


def _module(package: Path, name: str) -> Iterator[str]:
    tree = ast.parse((package / f"{name.replace('.', '/')}.py").read_text())
    full = ".".join((package / name).parts[(package / name).parts.index("src") + 1 :])
    yield f"### {full}\n"
    yield from _prose(ast.get_docstring(tree))
    yield from _members(tree.body, "")


def _members(body: list[ast.stmt], owner: str) -> Iterator[str]:
    """What is public among these statements; a string behind a value documents it."""
    for node, following in zip(body, [*body[1:], None], strict=True):
        text = _documentation(following)
        if isinstance(node, ast.ClassDef) and _public(node.name):
            yield from _class(node)
        elif isinstance(node, ast.FunctionDef) and _public(node.name):
            yield from _function(node, owner)
        elif isinstance(node, ast.AnnAssign | ast.Assign) and (owner or text):
            yield from _value(node, owner, text)


def _public(name: str) -> bool:
    return not name.startswith("_") or name == "__init__"


def _documentation(node: ast.stmt | None) -> str | None:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return inspect.cleandoc(str(node.value.value))
    return None


def _class(node: ast.ClassDef) -> Iterator[str]:
    bases = ", ".join(ast.unparse(each) for each in node.bases)
    yield f"#### class {node.name}({bases})\n" if bases else f"#### class {node.name}\n"
    yield from _prose(ast.get_docstring(node))
    documented = any(_documentation(each) for each in node.body[1:])
    values = [each for each in node.body if _field(each)]
    if values and not documented:
        yield _code("python", "\n".join(ast.unparse(each) for each in values))
        yield from _members([each for each in node.body if each not in values], node.name)
    else:
        yield from _members(node.body, "Cube" if node.name in CUBE_PARTS else node.name)


def _field(node: ast.stmt) -> bool:
    """A public value with a type, or a member of an enum."""
    if isinstance(node, ast.AnnAssign):
        return _public(ast.unparse(node.target))
    return isinstance(node, ast.Assign) and _public(ast.unparse(node.targets[0]))


def _function(node: ast.FunctionDef, owner: str) -> Iterator[str]:
    """The heading has the name, the code under it the exact signature."""
    decorators = [f"@{ast.unparse(each)}" for each in node.decorator_list]
    signature = f"def {node.name}({ast.unparse(node.args)})"
    if node.returns is not None:
        signature += f" -> {ast.unparse(node.returns)}"
    yield f"##### {owner}.{node.name}\n" if owner else f"#### {node.name}\n"
    yield _code("python", "\n".join([*decorators, signature]))
    yield from _prose(ast.get_docstring(node))


def _value(node: ast.AnnAssign | ast.Assign, owner: str, text: str | None) -> Iterator[str]:
    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
    name = ast.unparse(target)
    if not _public(name):
        return
    yield f"##### {owner}.{name}\n" if owner else f"#### {name}\n"
    yield _code("python", _assignment(node))
    yield from _prose(text)


def _assignment(node: ast.AnnAssign | ast.Assign) -> str:
    """The statement, a dictionary's items on lines of their own."""
    if not isinstance(node.value, ast.Dict):
        return ast.unparse(node)
    keys = zip(node.value.keys, node.value.values, strict=True)
    items = [f"    {ast.unparse(key)}: {ast.unparse(value)}," for key, value in keys if key]
    head = ast.unparse(node).partition(" = ")[0]
    return "\n".join([f"{head} = {{", *items, "}"])


def _prose(text: str | None) -> Iterator[str]:
    """A docstring as Markdown; its indented blocks are code there, too."""
    if text:
        yield _LITERAL.sub(r"`\1`", _ROLE.sub(r"`\1`", text)) + "\n"


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```\n"


def _header(name: str, *, keep_includes: bool = False) -> Iterator[str]:
    """A header's declarations, functions without their bodies, each under its comment."""
    text = (HOOKS / "include" / name).read_text()
    comments = re.findall(r"^/\*\n(.*?)^ \*/$", text, re.MULTILINE | re.DOTALL)
    yield f"### {name}\n"
    intro = comments[0]
    yield "\n".join(line.removeprefix(" *").strip() for line in intro.splitlines()) + "\n"
    body = text.partition(f"/*\n{intro} */\n")[2]
    left_out = "pragma" if keep_includes else "(?:pragma|include)"
    body = re.sub(rf"^#{left_out}.*\n", "", body, flags=re.MULTILINE)
    body = _FUNCTION.sub(lambda found: f"{' '.join(found['prototype'].split())};", body)
    yield _code("c", re.sub(r"\n{3,}", "\n\n", body).strip())


if __name__ == "__main__":
    PAGE.write_text(page())
