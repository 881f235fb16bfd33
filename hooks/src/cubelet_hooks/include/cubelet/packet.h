/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet as cubes see it: headers parsed once, the tuple as it was sent
 * and as rewritten so far, where it entered and where it is to leave.
 */
#pragma once

#include "cubelet/base.h"
#include "cubelet/generated.h"

enum cubelet_class {
	CUBELET_POD = 0,
	CUBELET_HOST = 1,
	CUBELET_OVERLAY = 2,
	CUBELET_UPLINK = 3,
};

enum cubelet_fragment {
	CUBELET_WHOLE = 0,
	CUBELET_FIRST = 1,
	CUBELET_LATER = 2, /* has no transport header */
};

/* Why no cube sees an IPv6 packet, whatever its addresses. */
enum cubelet_refused {
	CUBELET_REFUSED_NOT = 0,
	CUBELET_REFUSED_ROUTE, /* a routing header: see extensions.h */
	CUBELET_REFUSED_EXTENSIONS, /* more of them than are walked */
	CUBELET_REFUSED_UNCHECKED, /* UDP without a checksum */
};

#define CUBELET_TCP_FIN 0x01
#define CUBELET_TCP_SYN 0x02
#define CUBELET_TCP_RST 0x04
#define CUBELET_TCP_ACK 0x10

/* Filled by cubelet_parse(). Offsets are in bytes from the frame's start. */
struct cubelet_headers {
	struct cubelet_tuple tuple; /* as on the wire; only for IP packets */
	__u32 fragment_id;
	__u16 l4; /* offset of the transport header */
	__u16 size; /* IP packet (of a GSO packet: of one segment), bytes */
	__be16 ethertype;
	__u8 ttl;
	__u8 tcp_flags;
	__u8 fragment; /* enum cubelet_fragment */
	__u8 icmp_error; /* quotes another packet */
	__u8 may_fragment; /* the don't-fragment bit is clear */
	__u8 ip; /* an IP packet of our family, and none of ICMPv6 that stays on its link */
	__u8 ports; /* has ports (or an echo identifier) that may be translated */
#if CUBELET_FAMILY == 6
	__u8 refused; /* enum cubelet_refused */
	__u16 fragment_part; /* offset in bytes, and 1 if more follow */
#endif
};

/* Why the cubes run. */
enum cubelet_mode {
	CUBELET_ARRIVED = 0, /* nothing known yet */
	CUBELET_NEW, /* opens a flow */
	CUBELET_REJUDGE, /* a known flow whose epochs have passed: permission and path only */
	CUBELET_FIND_ORIGIN, /* denied mid-stream: the core alone says where its peer lives */
	CUBELET_AS_REPLY, /* denied mid-stream: judged as its peer's flow */
	CUBELET_LINK, /* not IP: the core alone forwards it */
};

/* What a cube returns; made by the functions of verdict.h. */
enum cubelet_verdict {
	CUBELET_NEXT = 0,
	CUBELET_FORWARD,
	CUBELET_DROP,
	CUBELET_REJECT,
	CUBELET_STACK,
	CUBELET_ANSWER,
	CUBELET_FLOOD,
	CUBELET_RESTART,
	CUBELET_PUNT, /* in user space by now: made by KIND_punt() alone */
};

enum cubelet_packet_flag {
	CUBELET_ROUTED = 1, /* TTL is decremented */
	CUBELET_SRC_RANGE = 2, /* the source port is chosen from a range on commit */
	CUBELET_TO_SEGMENT = 4, /* next_hop is on the pods' segment, MAC and port unresolved */
	CUBELET_SUPERSEDES = 8, /* takes the place of the flow that its tuple finds */
	CUBELET_KEEP_SRC = 16, /* the host's sockets are to see the client's own address */
};

#define CUBELET_ALIGNED __attribute__((aligned(8)))

struct cubelet_pkt {
	struct cubelet_headers hdr; /* the frame in hand */
	/* aligned, so that copies of just-written fields need not wait for them */
	struct cubelet_tuple orig CUBELET_ALIGNED; /* of the flow's first packet, as sent */
	struct cubelet_tuple cur CUBELET_ALIGNED; /* of the flow's first packet, as rewritten */
	struct cubelet_hop in CUBELET_ALIGNED; /* where the flow's first packet entered */
	struct cubelet_hop out CUBELET_ALIGNED; /* where it is to leave; valid once forwarded */
	struct cubelet_addr next_hop;
	__u32 ifindex; /* the device the frame in hand came from */
	__u32 epoch_sum;
	__u16 epoch_src, epoch_dst, epoch_backend;
	__u16 range_first, range_count; /* host byte order */
	__u16 reason;
	__u16 first_reason; /* of the first reading, when a second one follows */
	__u16 error_mtu; /* for fragmentation-needed */
	__u8 error_type, error_code; /* ICMP; type 0: TCP reset */
	__u8 entered; /* class of the port the frame in hand came from */
	__u8 mode;
	__u8 verdict;
	__u8 stage; /* which cube runs or spoke last */
	__u8 flags;
	__u8 reply; /* the frame in hand is of the reply direction */
	__u8 own_mac; /* the frame's source is the MAC of the pod behind the port */
	__u8 missed; /* the table of replied flows has been asked, in vain */
	__u8 candidates[4]; /* for the source port: the last one of each use that it has now */
	__u8 port_taken; /* the sender's own source port is that of a socket of the host's */
#if CUBELET_AREA_USED
	__u8 area[CUBELET_AREA_USED] CUBELET_ALIGNED; /* of the flow's records: see flow fields */
#endif
};
