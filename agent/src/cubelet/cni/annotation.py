"""The annotation by which a pod asks for an address."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from cubelet.cni import errors
from cubelet.cni.errors import CniError
from cubelet_hooks.objects import Address, Pod

IP_ANNOTATION: Final = "cubelet.io/ip"


def requested_address(pod: Pod) -> Address | None:
    """The address that the pod asks for, if any. Raises CniError, code 102, for what is none."""
    text = pod.annotations.get(IP_ANNOTATION)
    if text is None:
        return None
    try:
        return ip_address(text)
    except ValueError:
        raise CniError(
            errors.ADDRESS_UNAVAILABLE, f"annotation {IP_ANNOTATION}: {text!r} is no address"
        ) from None
