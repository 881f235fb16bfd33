/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * All that a cube includes. The headers cubelet/parse.h, with extensions.h, ip4.h, ip6.h and l4.h,
 * and cubelet/rewrite.h are the core's: what they do has been done before a cube runs, or is done
 * after it.
 *
 * Of the kernel's, linux/bpf.h, icmp.h, if_arp.h, if_ether.h, in.h, ip.h, pkt_cls.h,
 * tcp.h and udp.h are there, and for IPv6 icmpv6.h, in6.h and ipv6.h; others of the UAPI
 * (<linux/...>) can be included.
 */
#pragma once

#include "cubelet/base.h" /* addresses, and access to maps */
#include "cubelet/family.h" /* names for what differs between IPv4 and IPv6 */
#include "cubelet/packet.h" /* the packet, struct cubelet_pkt and struct cubelet_headers */
#include "cubelet/flow.h" /* the flow of KIND_packet: states and flags, such as CUBELET_FLOW_REPLY */
#include "cubelet/bucket.h" /* token buckets that all CPUs share */
#include "cubelet/early.h" /* the packet of KIND_early */
#include "cubelet/epoch.h" /* what verdicts rest on */
#include "cubelet/payload.h" /* what a packet carries */
#include "cubelet/socket.h" /* the node's own sockets */
#include "cubelet/uplink.h" /* the NICs that packets leave by */
#include "cubelet/verdict.h" /* what a cube says */
