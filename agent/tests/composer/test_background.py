"""Compiling beside the datapath's thread: what is told, kept, dropped and ended."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cubelet.composer import background
from cubelet.composer.background import BackgroundCompiler, Compiling
from cubelet.composer.errors import CompileError

CACHE = Path("/nonexistent")


class Workshop:
    """Stands in for the compiler: `go` lets it finish with `outcome`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.outcome: Any = "code"
        self.compiled: list[str] = []
        self.cached: dict[str, Any] = {}
        self.process: subprocess.Popen[str] | None = None
        monkeypatch.setattr(background, "compile_source", self.compile)
        monkeypatch.setattr(background, "source_identity", lambda source: source.name)
        monkeypatch.setattr(
            background, "find_compiled", lambda source, cache, identity: self.cached.get(identity)
        )
        self.done = threading.Semaphore(0)
        self.compiler = BackgroundCompiler()
        self.compiler.on_done = self.done.release

    def compile(self, source: Any, cache: Path, started: Callable[[Any], None]) -> Any:
        self.compiled.append(source.name)
        if self.process is not None:
            started(self.process)
            self.process.wait()
            raise CompileError("", "", 0, "the compiler ended by signal 9", "", final=False)
        assert self.go.wait(10)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return f"{self.outcome} of {source.name}"

    def ask(self, name: str) -> Any:
        source: Any = SimpleNamespace(name=name)
        return self.compiler(source, CACHE)

    @property
    def compiling(self) -> bool:
        return self.compiler.seconds is not None

    def finish(self) -> None:
        self.go.set()
        assert self.done.acquire(timeout=10)
        self.go.clear()


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return Workshop(monkeypatch)


def test_who_asks_again_gets_it(workshop: Workshop) -> None:
    for _ in range(3):
        with pytest.raises(Compiling):
            workshop.ask("a")
    during = workshop.compiling
    workshop.finish()
    assert (during, workshop.compiling) == (True, False)
    assert workshop.ask("a") == "code of a"
    assert workshop.compiled == ["a"]


def test_an_error_is_given_once_and_then_it_is_tried_again(workshop: Workshop) -> None:
    workshop.outcome = CompileError("tint", "tint.bpf.c", 5, "no such thing", "")
    with pytest.raises(Compiling):
        workshop.ask("a")
    workshop.finish()
    with pytest.raises(CompileError, match="no such thing"):
        workshop.ask("a")
    with pytest.raises(Compiling):
        workshop.ask("a")
    workshop.finish()
    assert workshop.compiled == ["a", "a"]


def test_one_at_a_time_and_the_next_after_it(workshop: Workshop) -> None:
    for name in ("a", "b"):
        with pytest.raises(Compiling):
            workshop.ask(name)
    workshop.finish()
    with pytest.raises(Compiling):
        workshop.ask("b")
    workshop.finish()
    assert (workshop.ask("b"), workshop.ask("a")) == ("code of b", "code of a")
    assert workshop.compiled == ["a", "b"]


def test_results_that_nobody_asks_for_are_dropped(workshop: Workshop) -> None:
    for name in ("a", "b", "c"):
        with pytest.raises(Compiling):
            workshop.ask(name)
        workshop.finish()
    with pytest.raises(Compiling):
        workshop.ask("a")
    workshop.finish()
    assert workshop.compiled == ["a", "b", "c", "a"]


def test_what_was_compiled_before_is_there_at_once(workshop: Workshop) -> None:
    workshop.cached["a"] = "stored"
    assert workshop.ask("a") == "stored"
    assert workshop.compiled == []


def test_an_agent_that_ends_ends_its_compiler(workshop: Workshop) -> None:
    with subprocess.Popen(["sleep", "60"], text=True) as workshop.process:
        with pytest.raises(Compiling):
            workshop.ask("a")
        while workshop.compiled != ["a"]:
            pass
        workshop.compiler.close()
        assert workshop.process.wait(10) == -signal.SIGKILL
    with pytest.raises(Compiling):
        workshop.ask("b")
    assert workshop.compiled == ["a"]
    assert not workshop.done.acquire(timeout=0)
