/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * IPv6 extension headers (RFC 8200 4), walked as far as CUBELET_EXTENSIONS headers and
 * CUBELET_EXTENSION_BYTES together: hop-by-hop and destination options, routing, fragment. What is
 * behind others (AH, ESP, ...) has a protocol, but no ports. Options stay unread.
 */
#pragma once

#include "cubelet/packet.h"

#define CUBELET_EXTENSIONS 5 /* one of each, and the destination options twice: RFC 8200 4.1 */
#define CUBELET_EXTENSION_BYTES 128
#define CUBELET_IP6_MORE 1
#define CUBELET_IP6_OFFSET 0xfff8 /* in bytes */

enum cubelet_walked {
	CUBELET_WALKED, /* to the transport header, or to a later fragment's data */
	CUBELET_WALK_BROKEN,
	CUBELET_WALK_ROUTED, /* a routing header leads on, or is of type 0 (RFC 5095) */
	CUBELET_WALK_BEYOND, /* more than is walked, or extensions behind the fragment header */
};

/* Where the walk stands. */
struct cubelet_walk {
	__u32 at; /* offset in the frame */
	__be32 id; /* the fragment header's */
	__u16 part; /* its offset and flag, host byte order; 0 without one */
	__u8 next; /* the header there */
	__u8 fragmented;
};

/* The first eight bytes of any extension header. */
struct cubelet_extension {
	__u8 next;
	__u8 length; /* in units of eight bytes, beyond the first; of a fragment header, reserved */
	union {
		struct {
			__u8 type, left;
		} routing;
		__be16 part;
	};
	__be32 id;
};

CUBELET_INLINE int cubelet_is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_DSTOPTS;
}

/* The header at w->at, which is no first one unless `first`. What came of it, WALKED to go on. */
CUBELET_INLINE int cubelet_walk_one(struct cubelet_walk *w, const struct cubelet_extension *e,
				    const int first)
{
	__u32 length = 8 + e->length * 8;

	switch (w->next) {
	case IPPROTO_HOPOPTS: /* only right behind the IP header */
		if (!first)
			return CUBELET_WALK_BROKEN;
		break;
	case IPPROTO_ROUTING:
		if (!e->routing.type || e->routing.left)
			return CUBELET_WALK_ROUTED;
		break;
	case IPPROTO_FRAGMENT:
		length = 8;
		w->fragmented = 1;
		w->part = bpf_ntohs(e->part) & (CUBELET_IP6_OFFSET | CUBELET_IP6_MORE);
		w->id = e->id;
		break;
	}
	if (w->at + length > ETH_HLEN + CUBELET_IP_BYTES + CUBELET_EXTENSION_BYTES)
		return CUBELET_WALK_BEYOND;
	w->next = e->next;
	w->at += length;
	return CUBELET_WALKED;
}

/*
 * Walks to the end of the chain. Bytes are read up to `end`, in the frame at `data`; w->at and
 * w->next say where to begin, and afterwards where the walk ended: at an extension header unless
 * it has come to the end.
 */
CUBELET_INLINE int cubelet_walk(void *data, void *end, struct cubelet_walk *w)
{
#pragma unroll
	for (int i = 0; i < CUBELET_EXTENSIONS; i++) {
		struct cubelet_extension *e;
		int walked;

		if (!cubelet_is_extension(w->next))
			return CUBELET_WALKED;
		/* all parts must go by the first's ports: see cubelet_fragment_identify() */
		if (w->fragmented)
			return CUBELET_WALK_BEYOND;
		e = data + (w->at & CUBELET_L4_MASK);
		if ((void *)(e + 1) > end)
			return CUBELET_WALK_BROKEN;
		walked = cubelet_walk_one(w, e, !i);
		if (walked != CUBELET_WALKED)
			return walked;
	}
	return cubelet_is_extension(w->next) ? CUBELET_WALK_BEYOND : CUBELET_WALKED;
}
