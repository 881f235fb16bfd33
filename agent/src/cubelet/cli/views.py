"""Formats the agent's answers as text for people.

The core's own tables have columns chosen here; all others show the fields that their rows have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from cubelet.console.output import Format, cell, table

Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], object]]


def _field(name: str) -> Callable[[Row], object]:
    return lambda row: row[name]


def fields(*names: str) -> Columns:
    """Columns that show fields as they are."""
    return {name.upper().replace("_", "-"): _field(name) for name in names}


def _end(prefix: str, name: str) -> Callable[[Row], object]:
    return lambda row: _address(row[f"{prefix}{name}"], row[f"{prefix}{name[0]}port"])


def _address(address: str, port: int) -> str:
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _translated(row: Row) -> str | None:
    names = ("src", "sport", "dst", "dport")
    if all(row[name] == row[f"to_{name}"] for name in names):
        return None
    return f"{_end('to_', 'src')(row)} > {_end('to_', 'dst')(row)}"


def _place(name: str) -> Callable[[Row], object]:
    return lambda row: f"{row[name]}/{row[f'{name}_ifindex']}"


_FLOWS: Columns = {
    "PROTOCOL": _field("protocol"),
    "SOURCE": _end("", "src"),
    "DESTINATION": _end("", "dst"),
    "TRANSLATED": _translated,
    "STATE": _field("state"),
    "DIRECTION": _field("direction"),
    "IDLE": lambda row: f"{row['idle']:.0f}s",
}
_PLUGINS = fields("kind", "distribution", "version", "hooks", "state", "reason")
_NARROW: Mapping[str, Columns] = {
    "plugins": _PLUGINS,
    "flows": _FLOWS,
    "cubes": fields("name", "kind", "place", "inward", "outward", "per_packet", "early"),
    "ports": fields("class", "name", "device", "addresses", "flows"),
    "drops": fields("cube", "reason", "class", "packets", "bytes"),
}
_WIDE: Mapping[str, Columns] = {
    "flows": {
        **_FLOWS,
        "TIMEOUT": lambda row: f"{row['timeout']}s",
        "ENTERS": _place("enters"),
        "LEAVES": _place("leaves"),
        "PACKETS": _field("packets"),
        "BYTES": _field("bytes"),
    },
    "plugins": {**_PLUGINS, **fields("metrics", "commands", "watches")},
}


def rows(noun: str, found: Sequence[Row], output: Format) -> str:
    """The table of `get NOUN`'s rows."""
    if not found:
        return f"no {noun}"
    columns = (_WIDE if output is Format.WIDE else _NARROW).get(noun)
    return in_columns(columns or fields(*found[0]), found)


def in_columns(columns: Columns, found: Sequence[Row]) -> str:
    """A table with these columns."""
    return table([*columns], [[read(row) for read in columns.values()] for row in found])


def status(found: Row) -> str:
    """The agent's status, one line per field, and then its problems."""
    lines = [(f"{name.replace('_', ' ')}:", _plain(value)) for name, value in _status_lines(found)]
    problems = [f"  {problem}" for problem in found["problems"]]
    return "\n".join([table(lines[0], lines[1:]), *(["problems:", *problems] if problems else [])])


def _status_lines(found: Row) -> Iterator[tuple[str, object]]:
    for name, value in found.items():
        if name == "composition" and value is not None:
            yield from _composition(value)
        elif name != "problems":
            yield name, value


def chain(found: Row) -> str:
    """The composition of a configuration: mode, core and stacks, a line each."""
    lines = [("mode:", found["mode"]), ("core:", _plain(found["core"]))]
    lines += [(f"{name} stack:", _plain(stack)) for name, stack in found["stacks"].items()]
    lines += [("excluded:", _plain(found["excluded"]))] if found["excluded"] else []
    return table(lines[0], lines[1:])


def _composition(found: Row) -> Iterator[tuple[str, object]]:
    yield "composition", f"{found['mode']} {found['identity'] or _not_composed(found)}"
    yield "core", found["core"]
    if found.get("excluded"):
        yield "excluded", found["excluded"]
    for port_class, stack in found["stacks"].items():
        yield f"{port_class} stack", stack


def _not_composed(found: Row) -> str:
    """What forwards while the composition is not in force."""
    earlier = ", ".join(found["earlier"])
    return f"not in force; of an earlier run: {earlier}" if earlier else "(none in force)"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        value = [f"{name} {each}" for name, each in value.items()]
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return cell(value)


def removed(names: Sequence[str]) -> str:
    """The lines about everything that was removed from a node."""
    return "\n".join(f"removed {name}" for name in names) or "nothing of cubelet is here"


DROPS = ("TIME", "CLASS", "CUBE", "REASON", "PACKET")
_WIDTHS = (12, 7, 10, 20, 0)


def drop(event: Row | None) -> str:
    """A line of `monitor`; with None, the header line.

    Lines are printed one by one, so columns have fixed widths; long cells push the rest aside.
    """
    cells = DROPS if event is None else _drop_cells(event)
    return "   ".join(f"{c:<{w}}" for c, w in zip(cells, _WIDTHS, strict=True)).rstrip()


def _drop_cells(event: Row) -> tuple[str, ...]:
    time = datetime.fromisoformat(event["time"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    return (time, *(str(event[name]) for name in ("class", "cube", "reason", "packet")))
