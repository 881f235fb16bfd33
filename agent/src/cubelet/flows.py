"""What the agent does with flow records: removes idle ones, counts them per pod, lists them.

A node may hold hundreds of thousands, so the sweep looks at raw bytes, at places that the record's
own layout gives.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import batched_or_islice
from typing import Any, NamedTuple

from cubelet.bpf.jiffies import Clock
from cubelet.bpf.maps import BpfMap
from cubelet.names import class_name, protocol_name
from cubelet_hooks.flows import Count, Flow, FlowFlag, FlowState, Hop, PortClass, PortKey, Tuple
from cubelet_hooks.records import Family, Record

Row = dict[str, Any]
