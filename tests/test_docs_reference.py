"""The reference is what the source says, and the source says it of everything."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cubelet.composer.composition import default_chain
from cubelet_hooks import hookspecs
from cubelet_hooks.cube import ABI, PORT_CLASSES, Cube

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGE = (DOCS / "reference.md").read_text()
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("cubelet_"))
ATTRIBUTES = sorted(
    {
        name
        for part in (Cube, *Cube.__bases__)
        for name in (*vars(part), *part.__annotations__)
        if not name.startswith("_")
    }
    | {"instance", "settings", "family"}
)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generator", DOCS / "generate_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_generator_gives() -> None:
    assert generator().page() == PAGE, "run: .venv/bin/python docs/generate_reference.py"


def every_test_module() -> Iterator[str]:
    for folder in ("agent/tests", "hooks/tests", "tests", "plugins"):
        yield from (path.read_text() for path in (ROOT / folder).rglob("test_*.py"))


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_its_signature_in_the_reference_and_a_test(name: str) -> None:
    hook = getattr(hookspecs, name)
    assert inspect.getdoc(hook)
    text = inspect.getsource(hook)
    signature = re.search(r"^def .*(?=:$)", text, re.MULTILINE)
    assert signature
    assert f"\n{signature[0]}\n" in PAGE
    assert any(f"def {name}(" in each for each in every_test_module())


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_public_attribute_of_a_cube_is_in_the_reference(name: str) -> None:
    if name in ("instance", "settings", "family"):
        assert f"{name}: " in PAGE.partition("##### Cube.__init__")[2].partition("#####")[0]
    else:
        assert f"\n##### Cube.{name}\n" in PAGE


def test_every_function_of_the_headers_is_in_the_reference() -> None:
    include = ROOT / "hooks/src/cubelet_hooks/include/cubelet"
    for header in include.glob("*.h"):
        names = re.findall(r"^CUBELET_INLINE \w.*?(\w+)\(", header.read_text(), re.MULTILINE)
        assert all(f"{name}(" in PAGE for name in names), header.name
        assert f"\n### cubelet/{header.name}\n" in PAGE


def test_every_module_of_the_contract_is_in_the_reference() -> None:
    package = ROOT / "hooks/src/cubelet_hooks"
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        assert path.name == "__init__.py" or f"\n### cubelet_hooks.{name}\n" in PAGE


def test_composition_tells_the_stacks_that_there_are() -> None:
    text = (DOCS / "composition.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|$", text, re.MULTILINE)
    told = {name: tuple(stack.split(", ")) for name, stack in rows if name in PORT_CLASSES}
    assert told == dict(default_chain().stacks)


@pytest.mark.parametrize("page", ["composition", "versioning", "writing-a-cube", "reference"])
def test_what_pages_for_authors_name_exists(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text()
    for name in re.findall(r"`Cube\.(\w+)", text):
        assert name in ATTRIBUTES, name
    for target, anchor in re.findall(r"\]\((?!http)([\w./-]+)(?:#([\w-]+))?\)", text):
        assert (DOCS / target).exists(), target
        titles = re.findall(r"^#+ (.+)$", (DOCS / target).read_text(), re.MULTILINE)
        assert not anchor or anchor in {each.lower().replace(" ", "-") for each in titles}


def test_versioning_names_the_abi_that_a_cube_writes_down() -> None:
    assert f"`abi = {ABI}`" in (DOCS / "versioning.md").read_text()
