"""CNI error codes (specification 1.1, section "Error"): those from 100 on are ours."""

from __future__ import annotations

from cubelet.ipc.client import AgentError

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODE_FAILURE = 6
INVALID_CONFIG = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
INTERNAL = 100
ADDRESSES_EXHAUSTED = 101
ADDRESS_UNAVAILABLE = 102
POD_CIDR_CHANGED = 103
WIRING_FAILED = 104
NOT_PROGRAMMED = 105
CHECK_FAILED = 106


class CniError(AgentError):
    """A CNI call's error, which the plugin prints as the error result with its code."""
