from __future__ import annotations
import pytest
from scapy.layers.inet import IP, UDP
from .rig import *
def test_x(rig):
    arrives(rig.send(IP(src=A,dst=B,ttl=9)/UDP(sport=1,dport=2)/b"x"), "b", IP(src=A,dst=B,ttl=8)/UDP(sport=1,dport=2)/b"x")
    arrives(rig.send(IP(src=B,dst=A,ttl=9)/UDP(sport=2,dport=1)/b"x", "b"), "a", IP(src=B,dst=A,ttl=8)/UDP(sport=2,dport=1)/b"x")
