"""Which kernel runs, for what only some of them can or need."""

from __future__ import annotations

import platform
import re


def release(text: str | None = None) -> tuple[int, int]:
    """The running kernel's major and minor number, or that of such a ``text``; (0, 0) for none.

    What distributions brought to older kernels does not show in it.
    """
    found = re.match(r"(\d+)\.(\d+)", platform.release() if text is None else text)
    return (int(found[1]), int(found[2])) if found else (0, 0)
