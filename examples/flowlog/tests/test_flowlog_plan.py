"""What it declares, its settings, and where records go: plain Python, without privileges."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cubelet import testkit
from cubelet_flowlog.cube import Flowlog, cubelet_cubes
from cubelet_flowlog.records import What
from cubelet_flowlog.settings import Settings
from cubelet_hooks.command import AgentError
from cubelet_hooks.cube import PORT_CLASSES
from cubelet_hooks.metrics import Sample

from .told import LEFT, SENT, event, view
from .waiting import eventually


def test_the_package_offers_the_cube() -> None:
    assert list(cubelet_cubes()) == [Flowlog]
    assert Flowlog.source().is_file()
    assert [each.port_class for each in Flowlog.placement] == list(PORT_CLASSES)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sample": 0}, "sample must be at least 1, not 0"),
        ({"interval": -1}, "interval must be at least 0, not -1"),
        ({"interval": 86_401}, "interval must be at most 86400"),
        ({"ends": -1}, "ends must be at least 0"),
        ({"rate": 0}, "rate must be at least 1"),
        ({"files": 1}, "files must be at least 2"),
        ({"max_bytes": 10}, "max_bytes must hold a record"),
        ({"file": "flows.log"}, "file must be an absolute path, not 'flows.log'"),
        ({"files": "many"}, "Expected `int`"),
        ({"colour": 1}, "unknown field `colour`"),
    ],
)
def test_a_wrong_setting_is_named(setting: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(setting, Settings)


def test_settings_are_compiled_in() -> None:
    cube = Flowlog("flowlog0", Settings(sample=10, denied=False, interval=60))
    assert cube.defines(testkit.view()) == {
        "OPENED": 0,
        "DENIED": 1,
        "COUNTED": 2,
        "ENDED": 3,
        "REPLY": 1,
        "PORT_UNKNOWN": 2,
        "MARKS": 0,
        "SAMPLE": 10,
        "INTERVAL": 60,
        "NAMES": 0,
        "ENDS": 1,
    }


def samples(cube: Flowlog) -> list[Sample]:
    nothing: dict[str, Any] = {}
    return list(cube.collect(nothing.__getitem__, testkit.view()))


def has_lost(cube: Flowlog, number: int) -> bool:
    return samples(cube)[-1] == Sample("lost_records", number)


class Context:
    """What callbacks are given, with a log to look at and marks as the test wants them."""

    def __init__(self) -> None:
        self.view = view()
        self.log: Any = self
        self.marks: dict[Any, Any] = {}
        self.said: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, text: str, **values: Any) -> None:
        self.said.append(("info", text, values))

    def warning(self, text: str, **values: Any) -> None:
        self.said.append(("warning", text, values))

    def table(self, name: str) -> dict[Any, Any]:
        return {"marks": self.marks}[name]

    def judge_again(self, *concerned: object) -> None:
        raise AssertionError("no verdict rests on it")

    def send(self, frame: bytes, ifindex: int) -> None:
        raise AssertionError("it sends nothing")


def test_records_go_to_the_log_and_are_counted() -> None:
    cube, context = Flowlog("flowlog0", Settings()), Context()
    cube.on_event(event(What.OPENED, SENT, LEFT), context)
    ((level, text, values),) = context.said
    assert (level, text) == ("info", "flow")
    assert values["flow_event"] == "opened", "the log has a name of its own called event"
    assert values["source_pod"] == "shop/web"
    assert samples(cube)[0] == Sample("records", 1, ("opened",))
    assert samples(cube)[-1] == Sample("lost_records", 0)


def test_a_file_that_cannot_be_written_is_complained_of_once(tmp_path: Path) -> None:
    cube = Flowlog("flowlog0", Settings(file=str(tmp_path / "no" / "flows")))
    context = Context()
    for number in (1, 2, 3):
        cube.on_event(event(What.OPENED, SENT, LEFT), context)
        eventually(partial(has_lost, cube, number))
    (said,) = context.said
    assert said[:2] == ("warning", "flow records are lost")
    assert "No such file or directory" in said[2]["error"]
    assert "`file`" in said[2]["remedy"]
    assert samples(cube)[-1] == Sample("lost_records", 3)


def test_its_status_tells_what_it_does_and_what_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    cube, context = Flowlog("flowlog0", Settings(sample=3, file=str(path))), Context()
    cube.on_event(event(What.OPENED, SENT, LEFT), context)
    eventually(lambda: path.exists() and path.read_text().endswith("\n"))
    status: Any = cube.answer("status", {}, context)
    assert (status["sample"], status["records opened"], status["lost"]) == (3, 1, 0)
    assert json.loads(path.read_text())["source_pod"] == "shop/web"
    assert context.said == [], "what goes to a file is not in the log as well"


def test_a_method_that_there_is_not_is_refused() -> None:
    with pytest.raises(AgentError, match="flowlog has no method 'erase'"):
        Flowlog("flowlog0", Settings()).answer("erase", {}, Context())
