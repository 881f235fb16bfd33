"""The reference is what the source says, and the source says it of everything."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType

import pytest

from cubelet.composer.composition import default_chain
from cubelet_hooks import hookspecs, records
from cubelet_hooks.cube import ABI, PORT_CLASSES, Cube
from cubelet_hooks.maps import MapType

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


def test_the_types_of_fields_are_those_that_there_are() -> None:
    """The table in the docstring of `cubelet_hooks.records`, row by row."""
    found = re.findall(
        r"^    (\w+) +(\S.*?) +([\d,]+) +(\d+)  ", records.__doc__ or "", re.MULTILINE
    )
    table = {name: (c, int(size.replace(",", "")), int(align)) for name, c, size, align in found}
    for name, known in vars(records).items():
        metadata = getattr(known, "__metadata__", None)
        if metadata is None:
            continue
        scalar = records._SCALARS.get(metadata[0]) or records._ADDRESSES[4]
        c_type = f"{scalar.c_type}[{scalar.size}]" if scalar.array else scalar.c_type
        assert table.pop(name) == (c_type, scalar.size, scalar.alignment)
    assert not table


def test_layouts_are_as_the_reference_has_them() -> None:
    class ServiceKey(records.Record):
        address: records.Addr
        port: records.Be16
        protocol: records.U8

    class Ban(records.Record):
        length: records.U32
        ifindex: records.Be32
        network: records.Addr

    for member in ServiceKey.layout().c_members():
        assert re.search(rf"# +{re.escape(member)}", records.__doc__ or "")
    shown = inspect.getdoc(MapType) or ""
    for field in Ban.layout().fields:
        assert re.search(rf"{field.scalar.c_type} {field.name}; +{field.offset}\n", shown)
    packed = Ban(32 + 16, 7, ip_address("10.1.0.0")).pack().hex(" ")
    assert packed in shown.replace("  ", " ")


def test_cubelet_h_includes_all_that_is_not_the_cores_own() -> None:
    include = ROOT / "hooks/src/cubelet_hooks/include"
    found = set(re.findall(r'#include "cubelet/(\w+).h"', (include / "cubelet.h").read_text()))
    core = {"parse", "rewrite", "extensions", "ip4", "ip6", "l4"}
    assert found == {each.stem for each in (include / "cubelet").glob("*.h")} - core


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


@pytest.mark.parametrize(
    "page",
    [
        "composition",
        "contract",
        "growing-a-cube",
        "lab",
        "reference",
        "versioning",
        "writing-a-cube",
    ],
)
def test_what_pages_for_authors_name_exists(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text()
    for name in re.findall(r"`Cube\.(\w+)", text):
        assert name in ATTRIBUTES, name
    for target, anchor in re.findall(r"\]\((?!http)([\w./-]+)(?:#([\w-]+))?\)", text):
        assert (DOCS / target).exists(), target
        titles = re.findall(r"^#+ (.+)$", (DOCS / target).read_text(), re.MULTILINE)
        plain = [re.sub(r"[^\w -]", "", each.lower()) for each in titles]
        assert not anchor or anchor in {each.replace(" ", "-") for each in plain}


def test_versioning_names_the_abi_that_a_cube_writes_down() -> None:
    assert f"`abi = {ABI}`" in (DOCS / "versioning.md").read_text()
