"""Reading manifests: every object with its line, and what is none by file and line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from cubelet.lab import documents
from cubelet.lab.documents import Document
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import key_of, read_documents
from cubelet.sources import fields

GOOD = "kind: Namespace\nmetadata: {name: good}\n"


def told(path: Path) -> list[str]:
    """What is wrong in the files, without their folder."""
    return [str(problem).removeprefix(f"{path.parent}/") for problem in documents.read(path)[1]]


def test_a_folder_gives_all_its_objects(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(
        "---\nkind: List\nitems:\n- {kind: Pod, metadata: {name: a}}\n---\n"
        "kind: Namespace\nmetadata: {name: n}\n---\n"
    )
    (tmp_path / "a.json").write_text('{\n\t"kind": "Service",\n\t"metadata": {"name": "s"}\n}')
    (tmp_path / "notes.txt").write_text("not: a manifest")
    found = read_documents(tmp_path)
    keys = ["service/s", "pod/a", "namespace/n"]
    assert [str(key_of(document.manifest)) for document in found] == keys
    lines = [document.problem(("metadata", "name"), "").line for document in found]
    assert lines == [3, 4, 7]
    assert {Path(document.file).name for document in found} == {"a.json", "b.yaml"}


def test_items_of_a_typed_list_need_not_repeat_their_kind(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: PodList\nitems: [{metadata: {name: a}}]")
    assert [d.manifest["kind"] for d in read_documents(tmp_path)] == ["Pod"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [\n", "bad.yaml:2: not valid YAML: did not find expected node content"),
        ("a: b\nc: d: e\n", "bad.yaml:2: not valid YAML: mapping values are not allowed"),
        ("kind: Pod\nmetadata: {name: a}\n---\n- 1", "bad.yaml:4: must be a mapping"),
        ("kind: Pod\nmetadata: {}", "bad.yaml:2: Pod: metadata.name: is required"),
        ("metadata: {name: x}", "bad.yaml:1: kind: is required"),
        ("kind: PodList\nitems:\n- {kind: Pod}", "bad.yaml:3: Pod: metadata.name: is required"),
        ("kind: List\nitems: 5", "bad.yaml:2: List: items: must be a list, is 5"),
        ("kind: Pod\nmetadata: {name: 7}", "bad.yaml:2: Pod: metadata.name: must be a string"),
        ("", "bad.yaml: holds no objects"),
        ("# nothing\n---\n---\n", "bad.yaml: holds no objects"),
        ("kind: List\nitems: []", "bad.yaml: holds no objects"),
        ("a: \x07", "bad.yaml: cannot be parsed: "),
        ("a: !!int x", "bad.yaml: cannot be parsed: invalid literal"),
    ],
)
def test_what_is_no_object_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    (problem,) = told(path)
    assert problem.startswith(message)
    with pytest.raises(LabError, match=r"bad\.yaml"):
        read_documents(path)


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"a: \xff")
    assert told(tmp_path / "bad.yaml") == ["bad.yaml: cannot be parsed: invalid start byte"]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    missing = ["no.yaml: cannot be read: No such file or directory"]
    assert told(tmp_path / "no.yaml") == missing


def test_a_folder_without_manifests_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(GOOD)
    with pytest.raises(LabError, match="no file ends in"):
        documents.read(tmp_path)


def test_bad_files_and_bad_objects_leave_the_others_alone(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.yaml").write_text(f"kind: Pod\n---\n{GOOD}")
    (tmp_path / "c.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "d.yaml").write_text(GOOD)
    found, problems = documents.read(tmp_path)
    assert [Path(document.file).name for document in found] == ["b.yaml", "d.yaml"]
    assert [Path(problem.file).name for problem in problems] == ["a.yaml", "b.yaml", "c.yaml"]


def test_dates_are_strings_as_kubernetes_has_them(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{GOOD}day: 2024-01-02")
    assert read_documents(tmp_path)[0].manifest["day"] == "2024-01-02"


def test_a_line_is_that_of_the_deepest_field_there_is() -> None:
    loader = documents.Loader(io.StringIO("a:\n- b: 1\n  c:\n    d: 2\n"))
    node = loader.get_single_node()
    document = Document({}, "f", node)
    paths: list[fields.Path] = [("a", 0, "c", "d"), ("a", 0, "x"), ("a", 7), ("z",), ()]
    assert [document.problem(path, "m").line for path in paths] == [4, 2, 2, 1, 1]
    assert document.part(("a", 0), {}).problem(("c", "d"), "m").line == 4
    assert str(Document({}).problem(("a", 0), "m")) == "a[0]: m"
