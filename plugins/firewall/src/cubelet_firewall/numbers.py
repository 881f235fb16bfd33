"""Hashes as numbers of contents: equal content has the same number, on every node.

So plans need no memory, equal content is stored once, and a number's meaning never changes: changed
content gets another number, is written beside the old, and is switched to by one write.
"""

from __future__ import annotations

import hashlib

import msgspec

# Networks are the only values that JSON cannot express.
_CANONICAL = msgspec.json.Encoder(enc_hook=str, order="deterministic")
_TAKEN = 1 << 63
"""A bit that is set in all numbers, which keeps small numbers free for fixed meanings."""


def canonical(content: object) -> bytes:
    """The same bytes for equal content, whatever the order of its mappings' keys."""
    return _CANONICAL.encode(content)


def number(kind: str, content: object) -> int:
    """The 64-bit number of ``content``, which also depends on ``kind``."""
    raw = canonical((kind, content))
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little") | _TAKEN
