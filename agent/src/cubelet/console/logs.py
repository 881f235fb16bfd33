"""Configures the log: lines of text on standard error."""

from __future__ import annotations

import logging
import os
import sys


def configure(level: int = logging.INFO) -> None:
    """Log to standard error from `level` on; colours only on a terminal, and as NO_COLOR says."""
    import structlog

    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.dev.ConsoleRenderer(colors=colours),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
