"""Renaming works on identifiers and on nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubelet.composer.rename import rename


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("lbrp_services", "lbrp7_services"),
        ("LBRP_REASON_X", "LBRP7_REASON_X"),
        ("struct lbrp_key k = {};", "struct lbrp7_key k = {};"),
        ("my_lbrp_x + lbrp2_y + xlbrp_z", "my_lbrp_x + lbrp2_y + xlbrp_z"),
        ("lbrp", "lbrp"),
        ('"lbrp_x" lbrp_x', '"lbrp_x" lbrp7_x'),
        (r'"a\"lbrp_x" lbrp_x', r'"a\"lbrp_x" lbrp7_x'),
        ("'\\'' lbrp_x", "'\\'' lbrp7_x"),
        ("// lbrp_x\nlbrp_x", "// lbrp_x\nlbrp7_x"),
        ("/* lbrp_x\n lbrp_y */ lbrp_x", "/* lbrp_x\n lbrp_y */ lbrp7_x"),
        ("#define LBRP_GET(x) lbrp_##x", "#define LBRP7_GET(x) lbrp7_##x"),
        ('#include "lbrp_maps.h"\nlbrp_x', '#include "lbrp_maps.h"\nlbrp7_x'),
    ],
)
def test_tokens(before, after):
    assert rename(before, "lbrp", "lbrp7") == after


@given(st.text(alphabet="lbrp_LBRP x\"'/*\n\\#;", max_size=60))
def test_lines_stay_and_the_way_back_leads_home(text):
    renamed = rename(text, "lbrp", "zz")
    assert renamed.count("\n") == text.count("\n")
    if "zz" not in text.lower():
        assert rename(renamed, "zz", "lbrp") == text
