"""Checks the settings model: every field has a default, and unknown keys are refused."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import msgspec.inspect

from cubelet.check.findings import Finding
from cubelet.check.limits import asked
from cubelet.check.places import at, raised
from cubelet.check.workbench import Workbench
from cubelet_hooks.cube import Cube, Settings

_NUMBERS = ("events_per_second", "event_bytes", "packets_per_second", "packet_bytes")
_UNKNOWN = "no_such_setting"


def check(bench: Workbench) -> Iterator[Finding]:
    """Check defaults, the refusal of unknown keys, and the settings that numbers refer to."""
    cube: type[Cube] = bench.cube
    model: type = cube.settings_type
    if not issubclass(model, Settings):
        remedy = "derive it from cubelet_hooks.cube.Settings"
        yield at(cube, "settings_type", f"{model!r} is no settings model", remedy)
        return
    needed = [field.name for field in msgspec.structs.fields(model) if field.required]
    for name in needed:
        message = f"the setting {name} has no default"
        yield at(cube, "settings_type", message, "give it one: a cube must run as installed")
    if _takes_unknown(model):
        message = "unknown settings are not refused: a mistyped one would go unnoticed"
        remedy = f"class {model.__name__}(Settings, frozen=True, forbid_unknown_fields=True, ...)"
        yield at(cube, "settings_type", message, remedy)
    for name, type_ in _unreadable(model):
        message = f"the setting {name} is a {type_}, which cannot be read from YAML"
        yield at(cube, "settings_type", message, "make it a str, and read that where it is used")
    if not needed:
        yield from _numbers(cube, model)


def _unreadable(model: type[Settings]) -> Iterator[tuple[str, str]]:
    """Settings with a type that has no form in YAML, such as an address, and that type's name."""
    about = msgspec.inspect.type_info(model)
    assert isinstance(about, msgspec.inspect.StructType)
    for field in about.fields:
        for each in _types(field.type):
            if isinstance(each, msgspec.inspect.CustomType):
                yield field.name, each.cls.__name__


def _types(about: object) -> Iterator[object]:
    """A type and all types within it."""
    if isinstance(about, msgspec.inspect.Field):
        yield from _types(about.type)
    elif isinstance(about, tuple):
        for each in about:
            yield from _types(each)
    elif isinstance(about, msgspec.inspect.Type):
        yield about
        for name in about.__struct_fields__:
            yield from _types(getattr(about, name))


def _takes_unknown(model: type[Settings]) -> bool:
    return not model.__struct_config__.forbid_unknown_fields


def _numbers(cube: type[Cube], model: type[Settings]) -> Iterator[Finding]:
    remedy = "a cube must run as installed: mend the default"
    try:
        made = asked("__init__", lambda: cube(f"{cube.kind}0", model()))
    except Exception as error:  # any exception of the model or the class
        yield raised(error, cube, "settings_type", remedy)
        return
    named = {f"the size of the map {each.name}": ("maps", each.size) for each in cube.maps}
    named |= {f"Cube.{name}": (name, getattr(cube, name)) for name in _NUMBERS}
    for what, (attribute, value) in named.items():
        try:
            number = made.number(value)
        except (AttributeError, TypeError, ValueError):
            message = f"{what} is the setting {value!r}, which is no number of {model.__name__}"
            yield at(cube, attribute, message, "name a setting that there is")
            continue
        if number < 1:
            yield at(cube, attribute, f"{what} is {number}", "make it at least 1")
