"""Reads manifests from files: each object separately, with the place of each field in its file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final

import yaml

from cubelet.lab.errors import LabError
from cubelet.sources.decode import ObjectError, expand
from cubelet.sources.fields import Field, FieldError, Path, dotted
from cubelet.sources.problem import Problem

Manifest = dict[str, Any]

_SUFFIXES: Final = (".yaml", ".yml", ".json")
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(_Base):  # type: ignore[misc]
    """YAML as Kubernetes reads it: dates are strings."""


Loader.add_constructor("tag:yaml.org,2002:timestamp", Loader.construct_yaml_str)


@dataclass(frozen=True)
class Document:
    """One object's manifest; `file` and `node` (its YAML) are its origin, if it has one."""

    manifest: Manifest
    file: str = ""
    node: yaml.Node | None = None

    def part(self, path: Path, manifest: Manifest) -> Document:
        """A manifest that is written within this one, at `path`."""
        return Document(manifest, self.file, self.node and _descend(self.node, path))

    def problem(self, path: Path, message: str, kind: str = "", key: str = "") -> Problem:
        """A problem with the field at `path`."""
        line = _descend(self.node, path).start_mark.line + 1 if self.node else 0
        return Problem(self.file, line, kind, key, dotted(path), message)


def read(path: FilePath) -> tuple[list[Document], list[Problem]]:
    """All objects in a file or in a folder's manifests, Lists expanded, and all problems.

    A file that cannot be parsed, or that has no objects, is one problem; the other files are still
    read. Raises LabError for a folder without manifests.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if not files:
        raise LabError(f"{path}: no file ends in {', '.join(_SUFFIXES)}")
    documents: list[Document] = []
    problems: list[Problem] = []
    for file in files:
        for found in _read_file(file):
            if isinstance(found, Document):
                documents.append(found)
            else:
                problems.append(found)
    return documents, problems


def _read_file(path: FilePath) -> list[Document | Problem]:
    try:
        found = [each for whole in _parse(path) for each in _objects(whole)]
    except OSError as error:
        return [_unreadable(path, 0, f"cannot be read: {error.strerror}")]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"not valid YAML: {error.problem or error.context}"
        return [_unreadable(path, mark.line + 1 if mark else 0, message)]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = getattr(error, "reason", None) or " ".join(str(error).split())
        return [_unreadable(path, 0, f"cannot be parsed: {reason}")]
    return found or [_unreadable(path, 0, "holds no objects")]


def _unreadable(path: FilePath, line: int, message: str) -> Problem:
    return Problem(str(path), line, "", "", "", message)


def _parse(path: FilePath) -> Iterator[Document]:
    """The file's YAML documents (JSON is YAML too), but for empty ones."""
    loader = Loader(path.read_text("utf-8"))
    try:
        while loader.check_node():
            node = loader.get_node()
            value = loader.construct_document(node)
            if value is not None:
                yield Document(value, str(path), node)
    finally:
        loader.dispose()


def _objects(whole: Document) -> Iterator[Document | Problem]:
    try:
        for path, item in expand(whole.manifest):
            # Whether it is a mapping is checked below, since it must have a kind.
            document = whole.part(path, item)  # type: ignore[arg-type]
            kind = ""
            try:
                kind = Field(item)["kind"].text(None)
                Field(item)["metadata"]["name"].text(None)
            except FieldError as error:
                yield document.problem(error.path, error.message, kind)
            else:
                yield document
    except ObjectError as error:
        yield whole.problem(error.path, error.message, error.kind)


def _descend(node: yaml.Node, path: Path) -> yaml.Node:
    """The YAML node at `path`, or the last existing one on the way."""
    for step in path:
        below: dict[object, yaml.Node] = {}
        if isinstance(node, yaml.SequenceNode):
            below = dict(enumerate(node.value))
        elif isinstance(node, yaml.MappingNode):
            below = {key.value: value for key, value in node.value if isinstance(key.value, str)}
        if step not in below:
            break
        node = below[step]
    return node
