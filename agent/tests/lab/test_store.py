"""The lab's folder of objects, and reading manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from cubelet.lab import layout as layout_module
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import Key, Manifest, key_of, kind_named
from cubelet.lab.layout import Layout
from cubelet.lab.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(layout_module, "RUN_ROOT", tmp_path)
    return Store(Layout("lab"))


def pod(name: str, namespace: str = "default") -> Manifest:
    return {"kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": {}}


def test_an_object_is_one_file_and_comes_back(store: Store, tmp_path: Path) -> None:
    assert store.put(pod("a.b", "shop"))
    assert not store.put(pod("a.b", "shop"))
    assert [f.name for f in (tmp_path / "lab/manifests").iterdir()] == ["pod.shop.a.b.yaml"]
    assert list((tmp_path / "lab/staging").iterdir()) == []
    assert store.get(Key("Pod", "shop", "a.b")) == pod("a.b", "shop")


def test_lists_are_by_kind_and_namespace_and_sorted(store: Store) -> None:
    node = {"kind": "Node", "metadata": {"name": "node1"}}
    for manifest in (pod("b"), pod("a"), pod("a", "shop"), node):
        store.put(manifest)
    assert [key_of(m)[1:] for m in store.list("Pod")] == [
        ("default", "a"),
        ("default", "b"),
        ("shop", "a"),
    ]
    assert store.list("Pod", "shop") == [pod("a", "shop")]
    assert store.list("Node") == [node]


def test_removing_twice_is_told_apart(store: Store) -> None:
    store.put(pod("a"))
    key = Key("Pod", "default", "a")
    assert store.remove(key)
    assert not store.remove(key)
    assert store.get(key) is None


@pytest.mark.parametrize(
    "key",
    [
        Key("Pod", "default", "../../x"),
        Key("Pod", "../default", "x"),
        Key("../Pod", "default", "x"),
        Key("Pod", "default", ""),
        Key("Pod", "default", ".."),
        Key("Pod", "default", "x\n"),
    ],
)
def test_a_name_leads_to_no_other_folder(store: Store, key: Key) -> None:
    for use in (store.get, store.remove):
        with pytest.raises(LabError, match="names are of"):
            use(key)


@pytest.mark.parametrize("text", ["pod", "Pods", "po"])
def test_kinds_by_any_name(text: str) -> None:
    assert kind_named(text).name == "Pod"


def test_an_unknown_kind_names_the_known() -> None:
    with pytest.raises(LabError, match="networkpolicies"):
        kind_named("gadget")
