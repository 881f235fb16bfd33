"""The lookup table finds what a search through all objects would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cubelet.state.index import Index
from cubelet_hooks.objects import Namespace

keys = st.sampled_from("abc")
terms = st.dictionaries(st.sampled_from("xyz"), st.just(""), max_size=3)


@given(st.lists(st.tuples(keys, st.one_of(terms, st.none())), max_size=20))
def test_as_a_search_would(changes: list[tuple[str, dict[str, str] | None]]) -> None:
    """Objects of three keys come, change and go, each found by some of three terms."""
    index = Index[str, Namespace](lambda each: each.labels)
    objects: dict[str, Namespace] = {}
    for key, labels in changes:
        old = objects.pop(key, None)
        if labels is not None:
            objects[key] = Namespace(key, labels)
        index.replace(old, objects.get(key))
        for term in "xyz":
            wanted = tuple(each for _, each in sorted(objects.items()) if term in each.labels)
            assert index.ordered(term) == wanted
            assert sorted(index.get(term), key=lambda each: each.name) == list(wanted)
    assert index.ordered("w") == ()
