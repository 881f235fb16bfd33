"""Manifests and the folder that holds them: what is emitted, kept and reported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cubelet.sources.decode import Identity
from cubelet.sources.folder import source as folder
from cubelet.sources.folder.manifest import Manifest, read
from cubelet.sources.folder.source import FolderSource
from cubelet.sources.problem import Problem
from cubelet_hooks.objects import Change, Node, Object, Service

SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: {name}
  labels: {{version: "{version}"}}
spec:
  ports:
  - port: {port}
"""


def service(name: str, version: str = "1", port: object = 80) -> str:
    return SERVICE.format(name=name, version=version, port=port)


def version(found: Object) -> str:
    assert isinstance(found, Service)
    return found.labels["version"]


def documents(*texts: str) -> str:
    return "---\n".join(texts)


def manifest(text: str, last: Manifest | None = None, file: str = "a.yaml") -> Manifest:
    return read(file, text.encode(), last.objects if last else {})


def keys(found: Manifest) -> list[str]:
    return sorted(identity.key for identity in found.objects)


class TestManifest:
    def test_documents_and_lists(self) -> None:
        listed = "kind: List\nitems:\n- {kind: Namespace, metadata: {name: c}}\n"
        found = manifest(documents(service("a"), "", service("b"), listed))
        assert keys(found) == ["c", "default/a", "default/b"]
        assert not found.problems

    def test_json(self) -> None:
        text = json.dumps({"kind": "Namespace", "metadata": {"name": "shop"}}, indent="\t")
        assert keys(manifest(text, file="a.json")) == ["shop"]

    def test_dates_stay_strings(self) -> None:
        text = "kind: Node\nmetadata: {name: a, annotations: {built: 2030-01-01}}\n"
        (node,) = manifest(text).objects.values()
        assert node == Node("a", annotations={"built": "2030-01-01"})

    def test_problem_tells_line_object_and_field(self) -> None:
        found = manifest(documents(service("a"), service("b", port=0)))
        assert keys(found) == ["default/a"]
        assert found.problems == (
            Problem(
                "a.yaml",
                17,
                "Service",
                "default/b",
                "spec.ports[0].port",
                "must be from 1 to 65535, is 0",
            ),
        )
        assert str(found.problems[0]) == (
            "a.yaml:17: Service default/b: spec.ports[0].port: must be from 1 to 65535, is 0"
        )

    def test_problem_in_a_list_tells_the_items_line(self) -> None:
        text = "kind: List\nitems:\n- kind: Namespace\n  metadata: {name: a}\n- kind: Namespace\n"
        (problem,) = manifest(text).problems
        assert (problem.line, problem.kind, problem.field) == (5, "Namespace", "metadata.name")

    def test_bad_object_stays_what_it_was(self) -> None:
        last = manifest(documents(service("a"), service("b"), service("c")))
        found = manifest(documents(service("a", "2"), service("b", "2", port=0)), last)
        assert keys(found) == ["default/a", "default/b"]
        b = Identity("Service", "default/b")
        assert found.objects[b] == last.objects[b]
        assert found.kept == {b}

    @pytest.mark.parametrize(
        ("text", "line", "message"),
        [
            ("a: [\n", 2, "not valid YAML"),
            (documents(service("a"), "kind: Service\n  metadata: x\n"), 11, "not valid YAML"),
            ("a: *nothing\n", 1, "not valid YAML"),
            ("a: \x00\n", 0, "cannot be parsed"),
        ],
    )
    def test_bad_yaml_keeps_the_file(self, text: str, line: int, message: str) -> None:
        last = manifest(documents(service("a"), service("b")))
        found = manifest(text, last)
        assert found.objects == last.objects
        (problem,) = found.problems
        assert problem.line == line
        assert message in problem.message

    @pytest.mark.parametrize("text", ["[", "[" * 100_000, '{"kind": '])
    def test_bad_json_keeps_the_file(self, text: str) -> None:
        last = manifest(service("a"))
        found = manifest(text, last, "a.json")
        assert found.objects == last.objects
        assert len(found.problems) == 1

    def test_bytes_that_are_no_text_keep_the_file(self) -> None:
        last = manifest(service("a"))
        found = read("a.yaml", b"kind: \xff\xfe\x80", last.objects)
        assert found.objects == last.objects
        assert len(found.problems) == 1

    @pytest.mark.parametrize(
        "text",
        [
            "just text\n",
            "kind: Service\n",
            service("Not A Name"),
            "kind: 3\nmetadata: {name: a}\n",
            "kind: List\nitems: 3\n",
        ],
    )
    def test_document_about_who_knows_what_keeps_all(self, text: str) -> None:
        last = manifest(documents(service("a"), service("b")))
        found = manifest(documents(service("b", "2"), text), last)
        assert keys(found) == ["default/a", "default/b"]
        assert found.kept == {Identity("Service", "default/a")}

    def test_misspelt_kind_keeps_the_object(self) -> None:
        last = manifest(documents(service("a"), service("b")))
        found = manifest(service("a").replace("kind: Service", "kind: Serivce"), last)
        assert keys(found) == ["default/a"]
        assert found.problems[0].kind == "Serivce"
        assert found.problems[0].field == "kind"

    def test_workload_of_the_same_name_keeps_nothing(self) -> None:
        workload = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n"
        last = manifest(documents(service("a"), workload))
        assert keys(manifest(workload, last)) == []

    def test_twice_in_one_file(self) -> None:
        found = manifest(documents(service("a", "1"), service("a", "2")))
        (kept,) = found.objects.values()
        assert version(kept) == "1"
        (problem,) = found.problems
        assert (problem.line, problem.key) == (10, "default/a")


class Followed:
    """A folder source at work, and all that it emitted and reported."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.changes: list[Change] = []
        self.problems: list[Problem] = []
        self.objects: dict[str, Object] = {}
        self.source = FolderSource(path, self._emit, self._report, **settings)

    def _emit(self, change: Change) -> None:
        self.changes.append(change)
        if change.new is None:
            del self.objects[change.key]
        else:
            self.objects[change.key] = change.new

    def _report(self, problems: list[Problem]) -> None:
        self.problems = problems

    def write(self, file: str, *texts: str) -> None:
        (self.path / file).write_text(documents(*texts))

    def version(self, name: str) -> str:
        return version(self.objects[f"default/{name}"])

    async def until(self, condition: Callable[[], bool], within: float = 5) -> None:
        async with asyncio.timeout(within):
            while not condition():
                await asyncio.sleep(0.01)

    async def until_objects(self, *names: str) -> None:
        await self.until(lambda: sorted(self.objects) == [f"default/{name}" for name in names])

    async def look(self) -> None:
        """Wait until everything before this call has been read; adds and removes an object."""
        before = self.changes[:]
        self.write("zz-look.yaml", service("zz-look"))
        await self.until(lambda: "default/zz-look" in self.objects)
        (self.path / "zz-look.yaml").unlink()
        await self.until(lambda: "default/zz-look" not in self.objects)
        self.changes = before + [
            each for each in self.changes[len(before) :] if each.key != "default/zz-look"
        ]


Silence = AsyncGenerator[set[Any], None]
Steps = Callable[[Followed], Awaitable[None]]


def follow(path: Path, steps: Steps, **settings: Any) -> None:
    """Run ``steps`` beside a source that follows ``path``."""

    async def run() -> None:
        followed = Followed(path, **settings)
        running = asyncio.create_task(followed.source.run())
        try:
            await steps(followed)
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())


class TestFolder:
    def test_starts_with_what_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(documents(service("a"), service("b")))
        (tmp_path / "c.yml").write_text(service("c"))
        (tmp_path / "d.json").write_text('{"kind": "Namespace", "metadata": {"name": "d"}}')

        async def steps(followed: Followed) -> None:
            assert not followed.source.has_synced
            await followed.until(lambda: followed.source.has_synced)
            assert sorted(followed.objects) == ["d", "default/a", "default/b", "default/c"]
            assert followed.problems == []

        follow(tmp_path, steps)

    def test_empty_folder_is_synced(self, tmp_path: Path) -> None:
        async def steps(followed: Followed) -> None:
            await followed.until(lambda: followed.source.has_synced)

        follow(tmp_path, steps)

    def test_add_change_delete(self, tmp_path: Path) -> None:
        async def steps(followed: Followed) -> None:
            followed.write("a.yaml", service("a"), service("b"))
            await followed.until_objects("a", "b")
            followed.write("a.yaml", service("a", "2"), service("b"))
            await followed.until(lambda: followed.version("a") == "2")
            assert len(followed.changes) == 3
            followed.write("a.yaml", service("b"))
            await followed.until_objects("b")
            (tmp_path / "a.yaml").unlink()
            await followed.until_objects()
            assert len(followed.changes) == 5

        follow(tmp_path, steps, rescan=60)

    def test_renamed_file_changes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(service("a"))

        async def steps(followed: Followed) -> None:
            await followed.until_objects("a")
            (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
            await followed.look()
            assert len(followed.changes) == 1
            (tmp_path / "b.yaml").unlink()
            await followed.until_objects()

        follow(tmp_path, steps)

    def test_object_moved_in_two_steps_is_not_removed(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(documents(service("a"), service("b")))

        async def steps(followed: Followed) -> None:
            await followed.until_objects("a", "b")
            followed.write("a.yaml", service("a"))
            await asyncio.sleep(0.03)
            followed.write("b.yaml", service("b"))
            await followed.look()
            assert len(followed.changes) == 2

        follow(tmp_path, steps, settle=0.2)

    def test_file_is_read_when_it_is_written(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(documents(service("a"), service("b")))

        async def steps(followed: Followed) -> None:
            await followed.until_objects("a", "b")
            with (tmp_path / "a.yaml").open("w") as file:
                for text in (service("a"), "---\n", service("b", "2")):
                    file.write(text)
                    file.flush()
                    await asyncio.sleep(0.05)
            await followed.look()
            assert [each.key for each in followed.changes[2:]] == ["default/b"]

        follow(tmp_path, steps, settle=0.2, patience=5)

    def test_replaced_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(service("a"))

        async def steps(followed: Followed) -> None:
            await followed.until_objects("a")
            followed.write(".a.yaml.tmp", service("a", "2"))
            (tmp_path / ".a.yaml.tmp").replace(tmp_path / "a.yaml")
            await followed.until(lambda: followed.version("a") == "2")
            assert len(followed.changes) == 2

        follow(tmp_path, steps, rescan=60)

    def test_busy_folder_is_read_within_patience(self, tmp_path: Path) -> None:
        async def steps(followed: Followed) -> None:
            for number in range(60):
                followed.write("a.yaml", service("a", str(number)))
                await asyncio.sleep(0.02)
            assert "default/a" in followed.objects

        follow(tmp_path, steps, settle=0.1, patience=0.3)

    def test_mistakes_are_reported_until_fixed(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text(documents(service("a"), service("b")))
        (tmp_path / "c.yaml").write_text(service("c"))

        async def steps(followed: Followed) -> None:
            await followed.until_objects("a", "b", "c")
            followed.write("a.yaml", service("a"), "{")
            followed.write("c.yaml", service("c", "2"))
            await followed.until(lambda: len(followed.problems) == 1)
            assert (followed.problems[0].file, followed.problems[0].line) == ("a.yaml", 11)
            assert followed.version("c") == "2"
            followed.write("a.yaml", service("a", port=0), service("b", "2"))
            await followed.until(lambda: followed.version("b") == "2")
            assert [each.field for each in followed.problems] == ["spec.ports[0].port"]
            assert sorted(followed.objects) == ["default/a", "default/b", "default/c"]
            followed.write("a.yaml", service("a", "2"))
            await followed.until_objects("a", "c")
            assert followed.problems == []
            assert followed.version("a") == "2"

        follow(tmp_path, steps)

    def test_same_object_in_two_files(self, tmp_path: Path) -> None:
        (tmp_path / "b.yaml").write_text(service("a", "b"))
        (tmp_path / "a.yaml").write_text(service("a", "a"))

        async def steps(followed: Followed) -> None:
            await followed.until(lambda: followed.source.has_synced)
            assert followed.version("a") == "a"
            assert [each.file for each in followed.problems] == ["b.yaml"]
            (tmp_path / "a.yaml").unlink()
            await followed.until(lambda: followed.version("a") == "b")
            assert followed.problems == []
            assert all(change.new is not None for change in followed.changes)

        follow(tmp_path, steps)

    @pytest.mark.parametrize(
        "name", [".a.yaml", ".a.yaml.swp", "a.yaml~", "#a.yaml#", ".#a.yaml", "a.yaml.tmp", "4913"]
    )
    def test_editors_files_are_ignored(self, tmp_path: Path, name: str) -> None:
        async def steps(followed: Followed) -> None:
            followed.write(name, service("a"))
            await followed.look()
            assert followed.changes == []
            assert followed.problems == []

        follow(tmp_path, steps)

    def test_links_as_in_a_mounted_config_map(self, tmp_path: Path) -> None:
        for version in ("1", "2"):
            (tmp_path / f"..{version}").mkdir()
            (tmp_path / f"..{version}" / "a.yaml").write_text(service("a", version))
        (tmp_path / "..data").symlink_to("..1")
        (tmp_path / "a.yaml").symlink_to("..data/a.yaml")

        async def steps(followed: Followed) -> None:
            await followed.until_objects("a")
            (tmp_path / "..new").symlink_to("..2")
            (tmp_path / "..new").replace(tmp_path / "..data")
            await followed.until(lambda: followed.version("a") == "2")

        follow(tmp_path, steps, rescan=60)

    def test_missing_folder_takes_nothing_away(self, tmp_path: Path) -> None:
        path = tmp_path / "manifests"
        path.mkdir()
        (path / "a.yaml").write_text(service("a"))

        async def steps(followed: Followed) -> None:
            await followed.until_objects("a")
            path.rename(tmp_path / "elsewhere")
            await followed.until(lambda: len(followed.problems) == 1)
            assert "cannot be listed" in followed.problems[0].message
            path.mkdir()
            (path / "b.yaml").write_text(documents(service("a"), service("b")))
            await followed.until_objects("a", "b")
            assert followed.problems == []
            assert len(followed.changes) == 2
            await followed.look()

        follow(path, steps, rescan=0.1)

    def test_folder_that_is_not_there_is_not_synced(self, tmp_path: Path) -> None:
        async def steps(followed: Followed) -> None:
            await followed.until(lambda: len(followed.problems) == 1)
            assert not followed.source.has_synced

        follow(tmp_path / "none", steps)

    def test_unreadable_file_keeps_what_it_gave(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.yaml").write_text(service("a"))

        def denied(path: Path) -> bytes:
            raise PermissionError(13, "Permission denied", str(path))

        async def steps(followed: Followed) -> None:
            await followed.until_objects("a")
            with monkeypatch.context() as patch:
                patch.setattr(Path, "read_bytes", denied)
                followed.write("a.yaml", service("a", "2"))
                await followed.until(lambda: len(followed.problems) == 1)
                assert "Permission denied" in followed.problems[0].message
                assert followed.version("a") == "1"
            (tmp_path / "a.yaml").chmod(0o600)
            await followed.until(lambda: followed.version("a") == "2")
            assert followed.problems == []

        follow(tmp_path, steps)

    def test_notices_that_do_not_come(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def silent(*paths: Path, rust_timeout: int, **settings: object) -> Silence:
            while True:
                await asyncio.sleep(rust_timeout / 1000)
                yield set()

        monkeypatch.setattr(folder, "awatch", silent)

        async def steps(followed: Followed) -> None:
            await followed.until(lambda: followed.source.has_synced)
            followed.write("a.yaml", service("a"))
            await followed.until_objects("a")

        follow(tmp_path, steps, rescan=0.1)

    def test_without_the_kernels_notices(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_watch_left(*paths: Path, **settings: object) -> None:
            raise OSError(28, "inotify watch limit reached")

        monkeypatch.setattr(folder, "awatch", no_watch_left)

        async def steps(followed: Followed) -> None:
            await followed.until(lambda: followed.source.has_synced)
            followed.write("a.yaml", service("a"))
            await followed.until_objects("a")

        follow(tmp_path, steps, rescan=0.1)
