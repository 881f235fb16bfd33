"""Which file's object counts, and what changes when files do."""

from __future__ import annotations

from cubelet.sources.decode import Identity
from cubelet.sources.folder.catalog import Catalog
from cubelet.sources.folder.manifest import Manifest
from cubelet_hooks.objects import Change, Namespace, Object


def space(name: str, version: str = "1") -> Namespace:
    return Namespace(name, {"version": version})


def giving(*objects: Object, kept: tuple[Object, ...] = ()) -> Manifest:
    return Manifest(
        {Identity(each.kind, each.key): each for each in (*objects, *kept)},
        frozenset(Identity(each.kind, each.key) for each in kept),
    )


def test_add_change_delete() -> None:
    catalog = Catalog()
    first, second = space("a", "1"), space("a", "2")
    assert catalog.update({"f": giving(first)}) == [Change.between(None, first)]
    assert catalog.update({"f": giving(first)}) == []
    assert catalog.update({"f": giving(second)}) == [Change.between(first, second)]
    assert catalog.update({"f": None}) == [Change.between(second, None)]


def test_moved_object_is_not_removed() -> None:
    catalog = Catalog()
    catalog.update({"f": giving(space("a"), space("b"))})
    assert catalog.update({"f": giving(space("a")), "g": giving(space("b"))}) == []
    assert catalog.update({"f": None, "h": giving(space("a"))}) == []


def test_first_file_wins_and_the_other_is_reported() -> None:
    catalog = Catalog()
    first, second = space("a", "1"), space("a", "2")
    catalog.update({"g": giving(second)})
    assert catalog.update({"f": giving(first)}) == [Change.between(second, first)]
    (problem,) = catalog.problems()
    assert (problem.file, problem.kind, problem.key) == ("g", "Namespace", "a")
    assert "f" in problem.message.split()
    assert catalog.update({"f": None}) == [Change.between(first, second)]
    assert catalog.problems() == []


def test_what_a_file_says_counts_before_what_one_said() -> None:
    catalog = Catalog()
    old, new = space("a", "1"), space("a", "2")
    catalog.update({"f": giving(old)})
    broken = giving(kept=(old,))
    assert catalog.update({"f": broken, "g": giving(new)}) == [Change.between(old, new)]
    assert catalog.problems() == []
