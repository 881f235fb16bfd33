"""The name in the begin of a DNS question, as a pod has sent it: anything at all."""

from __future__ import annotations

import re

_LABEL = re.compile(rb"[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?")


def name_of(question: bytes) -> str:
    """The name in lower case (RFC 1035 4.1.2); empty if there is none that could be a host's.

    A name that goes on behind these bytes has its first labels, then ``...``.
    """
    labels: list[str] = []
    at = 0
    while at < len(question) and (length := question[at]):
        label = question[at + 1 : at + 1 + length]
        if at + 1 + length > len(question):
            return ".".join([*labels, "..."]) if labels else ""
        if not _LABEL.fullmatch(label):
            return ""
        labels.append(label.decode().lower())
        at += 1 + length
    if labels and at >= len(question):
        labels.append("...")
    return ".".join(labels)
