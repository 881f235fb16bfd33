"""The Kubernetes API as the source of objects: see :class:`ApiSource`.

Every kind has an informer that lists and watches it. Importing this package is cheap: the official
client, which knows configuration, authentication and TLS, is imported with the first request.
"""

from __future__ import annotations

from cubelet.sources.api.errors import ApiError
from cubelet.sources.api.source import ApiSource
from cubelet.sources.api.store import Malformed

__all__ = ["ApiError", "ApiSource", "Malformed"]
