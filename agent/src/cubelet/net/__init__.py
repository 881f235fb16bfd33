"""The agent's kernel setup besides eBPF: devices, addresses, routes, sysctls."""

from __future__ import annotations


class NetError(Exception):
    """The settings or the kernel do not allow a step; the text names the step and the remedy."""
