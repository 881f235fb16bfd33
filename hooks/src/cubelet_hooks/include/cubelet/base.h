/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Addresses of one family, and the kernel headers everything here needs.
 *
 * A source is compiled once per family: CUBELET_FAMILY is 4 or 6, and struct
 * cubelet_addr has one word or four. Use the helpers, and the names of family.h for
 * what differs besides, and it serves both.
 *
 * Structs that live in maps (cubelet_tuple, cubelet_hop, cubelet_flow, ...)
 * are generated from cubelet_hooks/flows.py into cubelet/generated.h.
 */
#pragma once

#include "cubelet/family.h"

#include <linux/if_arp.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#define CUBELET_ABI 1
#define CUBELET_INLINE static __always_inline

struct cubelet_addr {
	__be32 w[CUBELET_ADDR_WORDS];
};

CUBELET_INLINE int cubelet_addr_equal(const struct cubelet_addr *a, const struct cubelet_addr *b)
{
	__u32 differs = a->w[0] ^ b->w[0];

#if CUBELET_FAMILY == 6
	differs |= (a->w[1] ^ b->w[1]) | (a->w[2] ^ b->w[2]) | (a->w[3] ^ b->w[3]);
#endif
	return !differs;
}

/* Is the address within network/prefix? prefix is 0..32 or 0..128. */
CUBELET_INLINE int cubelet_addr_within(const struct cubelet_addr *a,
				       const struct cubelet_addr *network, __u32 prefix)
{
#pragma unroll
	for (int i = 0; i < CUBELET_ADDR_WORDS; i++) {
		__u32 bits = prefix > 32 ? 32 : prefix;
		__be32 mask = bits ? bpf_htonl(~0U << (32 - bits)) : 0;

		if ((a->w[i] ^ network->w[i]) & mask)
			return 0;
		prefix -= bits;
	}
	return 1;
}

/* 127.0.0.0/8 or ::1: an address that a host has for itself alone. */
CUBELET_INLINE int cubelet_addr_loopback(const struct cubelet_addr *a)
{
#if CUBELET_FAMILY == 4
	return (a->w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
#else
	return !(a->w[0] | a->w[1] | a->w[2]) && a->w[3] == bpf_htonl(1);
#endif
}

/* Mixes an address into 32 bits; the basis of epochs and of flow hashes. */
CUBELET_INLINE __u32 cubelet_addr_fold(const struct cubelet_addr *a)
{
	__u32 folded = a->w[0];

#if CUBELET_FAMILY == 6
	folded ^= a->w[1] ^ a->w[2] ^ a->w[3];
#endif
	return folded;
}

CUBELET_INLINE int cubelet_same_mac(const __u8 *a, const __u8 *b)
{
	__u8 differs = 0;

#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++)
		differs |= a[i] ^ b[i];
	return !differs;
}

/* A one's complement sum in 16 bits, as checksums are: their complement is what packets have. */
CUBELET_INLINE __u16 cubelet_csum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Maps: every map is a constant that these take; see Cube.maps in Python. */
#define cubelet_lookup(map, key) bpf_map_lookup_elem((map), (void *)(key))
#define cubelet_update(map, key, value, flags) \
	bpf_map_update_elem((map), (void *)(key), (value), (flags))
#define cubelet_delete(map, key) bpf_map_delete_elem((map), (void *)(key))
