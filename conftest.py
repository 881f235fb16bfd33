"""What every test starts from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command configures logging, to its own standard error, which is closed when it ends."""
    yield
    structlog.reset_defaults()
