"""The kernel's BPF helpers that a cube's C may call.

A cube describes what is to become of a packet; the composer sends, rewrites and joins. A helper
that does one of these itself goes around the flows, the checksums and the other cubes, so those are
not among the allowed ones; nor are helpers that look at the machine beyond the packet.
``cubelet cube check`` compares the C with this list, its identifiers and the calls of the compiled
programs.
"""

from __future__ import annotations

from collections.abc import Mapping

HELPERS: Mapping[str, str] = {
    "bpf_map_lookup_elem": "as cubelet_lookup(map, key)",
    "bpf_map_update_elem": "as cubelet_update(map, key, value, flags)",
    "bpf_map_delete_elem": "as cubelet_delete(map, key)",
    "bpf_ktime_get_ns": "nanoseconds of CLOCK_MONOTONIC; 35 ns",
    "bpf_ktime_get_boot_ns": "nanoseconds of CLOCK_BOOTTIME, which counts suspended time too",
    "bpf_jiffies64": "ticks, CUBELET_HZ in a second; costs nothing",
    "bpf_get_prandom_u32": "32 random bits, not for secrets",
    "bpf_get_smp_processor_id": "the number of this CPU",
    "bpf_get_numa_node_id": "the number of this CPU's NUMA node",
    "bpf_get_hash_recalc": "a hash of the packet's flow, as the kernel computes it",
    "bpf_skb_load_bytes": "bytes of the packet, to the stack",
    "bpf_skb_load_bytes_relative": "the same, from the network header on",
    "bpf_skb_store_bytes": "bytes of the frame that becomes the cube's own answer (cubelet_answer)",
    "bpf_skb_change_tail": "the length of such an answer, before its bytes are written",
    "bpf_csum_diff": "the checksum of such an answer",
    "bpf_l3_csum_replace": "the IPv4 header's checksum of such an answer",
    "bpf_l4_csum_replace": "the transport header's checksum of such an answer",
    "bpf_fib_lookup": "the kernel's route and neighbour: core cubes",
    "bpf_sk_lookup_tcp": "a socket of the node's; cubelet_node_socket() does it and releases it",
    "bpf_sk_lookup_udp": "the same for UDP",
    "bpf_skc_lookup_tcp": "the same, sockets in TIME_WAIT and requests too",
    "bpf_sk_release": "gives such a socket back",
}
"""Helpers by name, each with what it is for."""

BYTE_ORDER = frozenset(
    f"bpf_{way}{size}" for way in ("hton", "ntoh") for size in ("s", "l", "ll")
) | {"bpf_cpu_to_be64", "bpf_be64_to_cpu"}
"""Macros that look like helpers, and are none."""

_INSTEAD: Mapping[str, str] = {
    "bpf_clone_redirect": "a cube sends nothing: call KIND_mirror(), or return cubelet_flood()",
    "bpf_redirect": "a cube sends nothing: return cubelet_forward(), and the composer redirects",
    "bpf_sk_redirect": "a cube sends nothing: return cubelet_forward() or cubelet_to_stack()",
    "bpf_sk_assign": "return cubelet_to_stack(): the host's stack finds the socket",
    "bpf_tail_call": "return cubelet_next(): the composer joins cubes",
    "bpf_skb_change_head": "describe it, by cubelet_forward() and pkt->out: the composer rewrites",
    "bpf_skb_change_proto": "describe it: the composer rewrites packets, and translates no family",
    "bpf_skb_change_type": "leave it to the composer, which delivers packets",
    "bpf_skb_adjust_room": "leave it to the composer, which writes outer headers",
    "bpf_skb_vlan": "leave it to the bridge, which knows segments",
    "bpf_skb_set_tunnel": "return cubelet_forward() to CUBELET_OVERLAY with pkt->out.remote",
    "bpf_skb_get_tunnel": "read pkt->in.remote: the composer has checked who sent it",
    "bpf_skb_pull_data": "call bpf_skb_load_bytes(): pulling makes pointers into packets invalid",
    "bpf_skb_ecn_set_ce": "drop by a reason: the composer does not mark packets",
    "bpf_set_hash": "leave it to the kernel",
    "bpf_xdp": "KIND_early is given all that it may see, and gives a reason or 0",
    "bpf_perf_event": "declare Cube.event and call KIND_emit()",
    "bpf_ringbuf": "declare Cube.event and call KIND_emit(), which keeps to the rate",
    "bpf_skb_output": "declare Cube.punts and return KIND_punt()",
    "bpf_trace": "declare Cube.event and call KIND_emit(): tracing is one file for all",
    "bpf_spin": "use __sync_fetch_and_add(): records have no room for locks",
    "bpf_timer": "compare a time in the record with bpf_jiffies64(): there are no timers",
    "bpf_loop": "write a loop with a constant bound: BCC compiles no callbacks",
    "bpf_for_each_map_elem": "look keys up: BCC compiles no callbacks; Python sees whole maps",
    "bpf_override_return": "a cube sees packets, and nothing else of the kernel",
    "bpf_probe": "a cube sees packets, and nothing else of the machine's memory",
    "bpf_send_signal": "a cube sees packets, and has no business with processes",
    "bpf_get_current": "packets belong to no process: look at pkt->in and the tuple",
    "bpf_get_socket": "packets of pods have no socket here: look at pkt->in and the tuple",
    "bpf_sys": "a cube sees packets: system calls are Python's",
}
"""Beginnings of names, each with what to do instead; the longest that fits counts."""


def instead_of(name: str) -> str:
    """What a cube does in place of a helper that it may not call."""
    fitting = [begin for begin in _INSTEAD if name.startswith(begin)]
    return _INSTEAD[max(fitting, key=len)] if fitting else "leave it out: it is none of HELPERS"


def may_use(identifier: str) -> bool:
    """Whether a cube's C may have this identifier, if that begins with ``bpf_``."""
    return identifier in HELPERS or identifier in BYTE_ORDER
