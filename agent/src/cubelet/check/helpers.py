"""Checks that the C names no BPF helper but those of ``cubelet_hooks.helpers``."""

from __future__ import annotations

from collections.abc import Iterator

from cubelet.check.ctokens import Token, tokens
from cubelet.check.findings import Finding, UncheckedError
from cubelet.check.workbench import Workbench
from cubelet_hooks.helpers import instead_of, may_use

_TAGS = frozenset(("struct", "union", "enum"))


def check(bench: Workbench) -> Iterator[Finding]:
    """Each line with a helper that a cube may not call, also in macros and where it is not called.

    Types of the kernel's, such as ``struct bpf_sock``, and members are no helpers.
    """
    source = bench.subject.source
    if not source.is_file():
        raise UncheckedError(f"there is no {source}")
    for each in named(source.read_text()):
        message = f"{each.text} is no helper that a cube may call"
        yield Finding(message, instead_of(each.text), str(source), each.line)


def named(source: str) -> Iterator[Token]:
    """The identifiers that name a helper which a cube may not call, each once a line."""
    before, seen = "", set()
    for each in tokens(source):
        is_name = each.text.startswith("bpf_") and before not in _TAGS and before not in (".", ">")
        if is_name and not may_use(each.text) and (each.text, each.line) not in seen:
            seen.add((each.text, each.line))
            yield each
        before = each.text
