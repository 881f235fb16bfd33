/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The pods' Ethernet segment. Maps:
 *
 *   neighbors    address -> pod         10.0.1.7 -> {02:..:07, ifindex 12, MTU 1500}
 *   fdb          MAC, segment -> pod    02:..:07, 0 -> ifindex 12
 *   learned      MAC, segment -> port   06:..:01, 0 -> {ifindex 12, heard at ...}
 *   flood_ports  what a flood reaches, walked by the core's flood program
 *   flood_rates  source port -> token bucket
 *
 * Who has an address is asked by ARP (IPv4) or by neighbour discovery (IPv6).
 *
 * MAC addresses are read from pkt->in, which describes the flow's first packet in every
 * mode: in.dst_mac is who sent, in.src_mac whom it addressed. For a packet that
 * opens a flow, and for frames that are not IP, that is the frame in hand.
 */
#include "cubelet.h"

#define BRIDGE_VLAN_ID 0x0fff /* of a tag's 16 bits; the rest is priority */
#define BRIDGE_ARP_FRAME 60 /* what an ARP packet is padded to: no more than an empty frame */

/* An ARP packet of IPv4 over Ethernet (RFC 826), after the Ethernet header. */
struct bridge_arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_size;
	__u8 protocol_size;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

static __always_inline int bridge_is_router(const __u8 *mac)
{
	return cubelet_same_mac(mac, (const __u8[ETH_ALEN])CUBELET_ROUTER_MAC);
}

/* IEEE 802.1Q, table 8-1: 01:80:c2:00:00:00 to :0f stop at every bridge. */
static __always_inline int bridge_is_reserved(const __u8 *mac)
{
	return mac[0] == 0x01 && mac[1] == 0x80 && mac[2] == 0xc2 && !mac[3] && !mac[4] &&
	       mac[5] < 0x10;
}

/* Takes a token from the bucket of the port the frame came from; 0 if it is empty. */
static __always_inline int bridge_spend(const struct cubelet_pkt *pkt)
{
	const __u64 full = (__u64)BRIDGE_FLOOD_BURST * CUBELET_HZ;
	struct bridge_flood_rate fresh = {}, *rate;
	struct bridge_flood_rate_key key = {};
	__u32 now = bpf_jiffies64();
	__u64 tokens = full;

	key.ifindex = pkt->ifindex;
	rate = cubelet_lookup(bridge_flood_rates, &key);
	if (rate) {
		tokens = rate->tokens + (__u64)(now - rate->seen) * BRIDGE_FLOOD_RATE;
		if (tokens > full)
			tokens = full;
	}
	if (tokens < CUBELET_HZ)
		return 0; /* the bucket keeps its time, so it fills on */
	tokens -= CUBELET_HZ;
	if (rate) {
		rate->tokens = tokens;
		rate->seen = now;
		return 1;
	}
	fresh.tokens = tokens;
	fresh.seen = now;
	cubelet_update(bridge_flood_rates, &key, &fresh, BPF_ANY);
	return 1;
}

static __always_inline int bridge_flood(struct cubelet_pkt *pkt)
{
	if (pkt->mode != CUBELET_NEW && pkt->mode != CUBELET_LINK)
		return cubelet_drop(pkt, BRIDGE_REASON_UNKNOWN_NEIGHBOR);
	if (!bridge_spend(pkt))
		return cubelet_drop(pkt, BRIDGE_REASON_FLOOD_LIMITED);
	return cubelet_flood(pkt);
}

/* Learns where a MAC address that is no pod's is. 0, or the reason to drop its frame. */
static __always_inline __u16 bridge_learn(struct cubelet_pkt *pkt, struct bridge_fdb_key *from)
{
	struct bridge_learned_entry fresh = {}, *known;
	__u32 now = bpf_jiffies64();

	known = cubelet_lookup(bridge_learned, from);
	if (!known) {
		fresh.ifindex = pkt->ifindex;
		fresh.seen = now;
		cubelet_update(bridge_learned, from, &fresh, BPF_ANY);
		return 0;
	}
	if (known->ifindex != pkt->ifindex) {
		/* A move ends cached verdicts, which nobody may do without limit. */
		if (!bridge_spend(pkt))
			return BRIDGE_REASON_FLOOD_LIMITED;
		known->ifindex = pkt->ifindex;
		known->seen = now;
		cubelet_epoch_raise();
	} else if (now - known->seen > CUBELET_HZ) {
		known->seen = now;
	}
	return 0;
}

/* Who sent the frame in hand? Learned, unless it is a pod. 0, or the reason to drop it. */
static __always_inline __u16 bridge_source(struct cubelet_pkt *pkt, __u16 segment)
{
	struct bridge_fdb_key from = {};
	struct bridge_fdb_entry *pod;

	if (pkt->in.dst_mac[0] & 1 || bridge_is_router(pkt->in.dst_mac) ||
	    cubelet_same_mac(pkt->in.dst_mac, (const __u8[ETH_ALEN])CUBELET_GATEWAY_MAC))
		return BRIDGE_REASON_MAC_SPOOFED;
	__builtin_memcpy(from.mac, pkt->in.dst_mac, ETH_ALEN);
	/* a pod's MAC address is its own on every segment */
	pod = cubelet_lookup(bridge_fdb, &from);
	if (pod && pod->ifindex != pkt->ifindex)
		return BRIDGE_REASON_MAC_SPOOFED;
	if (pod && !segment)
		return 0;
	from.segment = segment;
	return bridge_learn(pkt, &from);
}

/* The port of the station that the frame in hand is addressed to; 0: unknown, or a group. */
static __always_inline __u32 bridge_port_of(const struct cubelet_pkt *pkt, __u16 segment)
{
	const __u32 age = BRIDGE_AGING_SECONDS * CUBELET_HZ;
	struct bridge_learned_entry *learned;
	struct bridge_fdb_key to = {};
	struct bridge_fdb_entry *pod;

	if (pkt->in.src_mac[0] & 1)
		return 0;
	__builtin_memcpy(to.mac, pkt->in.src_mac, ETH_ALEN);
	to.segment = segment;
	pod = cubelet_lookup(bridge_fdb, &to);
	if (pod)
		return pod->ifindex;
	learned = cubelet_lookup(bridge_learned, &to);
	if (learned && (__u32)bpf_jiffies64() - learned->seen <= age)
		return learned->ifindex;
	return 0;
}

/* Hands the frame to a pod's port with the addresses `to` and its sender's. */
static __always_inline int bridge_deliver(struct cubelet_pkt *pkt, const __u8 *to, __u16 mtu,
					  __u32 ifindex)
{
	if (ifindex == pkt->in.ifindex)
		return cubelet_drop(pkt, BRIDGE_REASON_SAME_PORT);
	__builtin_memcpy(pkt->out.dst_mac, to, ETH_ALEN);
	__builtin_memcpy(pkt->out.src_mac, pkt->in.dst_mac, ETH_ALEN);
	pkt->out.mtu = mtu;
	return cubelet_forward(pkt, CUBELET_POD, ifindex);
}

/* Forwards by MAC address alone: what is not IP. */
static __always_inline int bridge_link(struct cubelet_pkt *pkt, __u16 segment)
{
	__u32 ifindex;

	if (bridge_is_router(pkt->in.src_mac))
		return cubelet_drop(pkt, BRIDGE_REASON_NOT_ROUTED);
	ifindex = bridge_port_of(pkt, segment);
	if (!ifindex)
		return bridge_flood(pkt);
	return bridge_deliver(pkt, pkt->in.src_mac, CUBELET_UPLINK_MTU, ifindex);
}

/*
 * Is the address a group's: multicast, a broadcast? To others an IP packet is never
 * flooded: it would reach who takes it by its address, past the policies of that pod.
 */
static __always_inline int bridge_is_group(const struct cubelet_addr *address)
{
#if CUBELET_FAMILY == 4
	const struct cubelet_addr pods = CUBELET_POD_NETWORK;
	__u32 host = bpf_ntohl(address->w[0]);

	return host >> 28 == 0xe || host == 0xffffffff ||
	       (CUBELET_POD_PREFIX < 31 &&
		host == (bpf_ntohl(pods.w[0]) | (__u32)(0xffffffffULL >> CUBELET_POD_PREFIX)));
#else
	return bpf_ntohl(address->w[0]) >> 24 == 0xff;
#endif
}

/*
 * No pod of the segment has the address. Who has a connection with one that is gone is
 * told at once: TCP takes an ICMP error for a passing trouble and waits for a quarter of an hour.
 */
static __always_inline int bridge_nobody(struct cubelet_pkt *pkt)
{
	if (pkt->orig.protocol == IPPROTO_TCP && cubelet_connected(pkt))
		return cubelet_refuse(pkt, BRIDGE_REASON_UNKNOWN_NEIGHBOR);
	return cubelet_reject(pkt, BRIDGE_REASON_UNKNOWN_NEIGHBOR, ICMP_DEST_UNREACH,
			      ICMP_HOST_UNREACH, 0);
}

/*
 * Forwards an IP packet within the segment. The pod is found by the address that
 * policy is judged by; a MAC address that leads to another pod is refused. A flow
 * that is judged again follows its address to a pod that replaced the old one.
 */
static __always_inline int bridge_ip(struct cubelet_pkt *pkt)
{
	struct bridge_neighbor_key key = {};
	struct bridge_neighbor *pod;
	__u32 ifindex;

	key.address = pkt->cur.dst;
	pod = cubelet_lookup(bridge_neighbors, &key);
	if (pkt->mode == CUBELET_REJUDGE || pkt->mode == CUBELET_AS_REPLY) {
		if (!pod)
			return bridge_nobody(pkt);
		return bridge_deliver(pkt, pod->mac, pod->mtu, pod->ifindex);
	}
	if (pod && cubelet_same_mac(pod->mac, pkt->in.src_mac))
		return bridge_deliver(pkt, pod->mac, pod->mtu, pod->ifindex);
	ifindex = bridge_port_of(pkt, 0);
	if (!ifindex && pkt->in.src_mac[0] & 1 && bridge_is_group(&pkt->cur.dst))
		return bridge_flood(pkt);
	if (!ifindex)
		return cubelet_drop(pkt, BRIDGE_REASON_UNKNOWN_NEIGHBOR);
	if (!pod || pod->ifindex != ifindex)
		return cubelet_drop(pkt, BRIDGE_REASON_WRONG_ADDRESS);
	return bridge_deliver(pkt, pkt->in.src_mac, pod->mtu, ifindex);
}

#if CUBELET_FAMILY == 4
/*
 * Does a pod's ARP packet claim an address that is another's? While policies are in force,
 * one that is not the pod's own, be it nobody's; a probe (RFC 5227) claims none.
 */
static __always_inline int bridge_arp_spoofed(const struct cubelet_pkt *pkt,
					      const struct cubelet_addr *sender, int request)
{
	const struct cubelet_addr gateway = CUBELET_GATEWAY_ADDRESS, node = CUBELET_NODE_ADDRESS;
	struct bridge_neighbor_key key = {};
	struct bridge_neighbor *owner;

	if (pkt->entered != CUBELET_POD || (request && !sender->w[0]))
		return 0;
	if (cubelet_addr_equal(sender, &gateway) || cubelet_addr_equal(sender, &node))
		return 1;
	key.address = *sender;
	owner = cubelet_lookup(bridge_neighbors, &key);
	if (!owner)
		return CUBELET_POLICED;
	return owner->ifindex != pkt->ifindex ||
	       (CUBELET_POLICED && !cubelet_same_mac(owner->mac, pkt->in.dst_mac));
}

/* Is it an ARP packet of IPv4 over Ethernet, from whom the frame says, and nothing besides? */
static __always_inline int bridge_arp_formed(struct __sk_buff *skb, const struct cubelet_pkt *pkt,
					     const struct bridge_arp *arp)
{
	if (arp->hardware != bpf_htons(ARPHRD_ETHER) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_size != ETH_ALEN || arp->protocol_size != sizeof(arp->target))
		return 0;
	if (pkt->entered != CUBELET_POD)
		return 1;
	if (!cubelet_same_mac(arp->sender_mac, pkt->in.dst_mac))
		return 0;
	return !CUBELET_POLICED ||
	       (skb->len <= BRIDGE_ARP_FRAME && (arp->operation == bpf_htons(ARPOP_REQUEST) ||
						 arp->operation == bpf_htons(ARPOP_REPLY)));
}

/* Writes the answer for an address with this MAC over the request. */
static __always_inline int bridge_arp_answer(struct __sk_buff *skb, struct cubelet_pkt *pkt,
					     struct bridge_arp *arp, const __u8 *mac)
{
	__be32 asked = arp->target;
	struct ethhdr eth = {};

	__builtin_memcpy(eth.h_dest, pkt->in.dst_mac, ETH_ALEN);
	__builtin_memcpy(eth.h_source, mac, ETH_ALEN);
	eth.h_proto = pkt->hdr.ethertype;
	arp->operation = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, ETH_ALEN);
	arp->target = arp->sender;
	__builtin_memcpy(arp->sender_mac, mac, ETH_ALEN);
	arp->sender = asked;
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, arp, sizeof(*arp), 0))
		return cubelet_drop(pkt, BRIDGE_REASON_MALFORMED_ARP);
	return cubelet_answer(pkt);
}

/*
 * Checks ARP, and answers it for the gateway and for pods of the segment 0. Announcements
 * (sender and target the same), questions about the asker's own address such as the probes of
 * RFC 5227, and all that is not known here are for the others to hear: CUBELET_NEXT.
 */
static __always_inline int bridge_arp(struct __sk_buff *skb, struct cubelet_pkt *pkt, __u16 segment)
{
	const struct cubelet_addr gateway = CUBELET_GATEWAY_ADDRESS;
	struct bridge_neighbor_key key = {};
	struct cubelet_addr sender = {};
	struct bridge_neighbor *pod;
	struct bridge_arp arp;
	int request;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)) ||
	    !bridge_arp_formed(skb, pkt, &arp))
		return cubelet_drop(pkt, BRIDGE_REASON_MALFORMED_ARP);
	sender.w[0] = arp.sender;
	request = arp.operation == bpf_htons(ARPOP_REQUEST);
	if (bridge_arp_spoofed(pkt, &sender, request))
		return cubelet_drop(pkt, BRIDGE_REASON_ARP_SPOOFED);
	if (segment || !request || arp.sender == arp.target)
		return cubelet_next(pkt);
	key.address.w[0] = arp.target;
	if (cubelet_addr_equal(&key.address, &gateway))
		return bridge_arp_answer(skb, pkt, &arp, (const __u8[ETH_ALEN])CUBELET_ROUTER_MAC);
	pod = cubelet_lookup(bridge_neighbors, &key);
	if (!pod || pod->ifindex == pkt->ifindex)
		return cubelet_next(pkt);
	return bridge_arp_answer(skb, pkt, &arp, pod->mac);
}
#endif

#if CUBELET_FAMILY == 6
#define BRIDGE_ND_HOPS 255 /* of what no router has forwarded (RFC 4861 7.1) */
#define BRIDGE_ND_OPTIONS 2 /* the sender's MAC address; a nonce (RFC 7527) */
#define BRIDGE_ND_SOLICITATION 135
#define BRIDGE_ND_ADVERTISEMENT 136
#define BRIDGE_ND_SOURCE 1
#define BRIDGE_ND_TARGET 2
#define BRIDGE_ND_NONCE 14
#define BRIDGE_ND_ROUTER 0x80
#define BRIDGE_ND_SOLICITED 0x40
#define BRIDGE_ND_OVERRIDE 0x20

/* A neighbour's solicitation or advertisement, without options (RFC 4861 4.3, 4.4). */
struct bridge_nd {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__u8 flags;
	__u8 reserved[3];
	struct cubelet_addr target;
};

struct bridge_nd_option {
	__u8 type;
	__u8 length; /* in units of eight bytes */
	__u8 mac[ETH_ALEN];
};

static __always_inline int bridge_unspecified(const struct cubelet_addr *a)
{
	return !(a->w[0] | a->w[1] | a->w[2] | a->w[3]);
}

static __always_inline int bridge_link_local(const struct cubelet_addr *a)
{
	return bpf_ntohl(a->w[0]) >> 22 == 0x3fa;
}

/*
 * May the sender of the frame in hand say that it has this address? A pod its own; while policies
 * are in force no other that is nobody's. Of links' own addresses nobody knows whose they are, and
 * no packet with one is forwarded.
 */
static __always_inline int bridge_nd_owned(const struct cubelet_pkt *pkt,
					   const struct cubelet_addr *address)
{
	const struct cubelet_addr gateway = CUBELET_GATEWAY_ADDRESS, node = CUBELET_NODE_ADDRESS;
	struct bridge_neighbor_key key = { .address = *address };
	struct bridge_neighbor *owner;

	if (bridge_link_local(address))
		return 1;
	if (cubelet_addr_equal(address, &gateway) || cubelet_addr_equal(address, &node))
		return 0;
	owner = cubelet_lookup(bridge_neighbors, &key);
	if (!owner)
		return !CUBELET_POLICED;
	return owner->ifindex == pkt->ifindex &&
	       (!CUBELET_POLICED || cubelet_same_mac(owner->mac, pkt->in.dst_mac));
}

/* The options of a pod's message: none but the sender's own MAC, and a nonce. 0, or a reason. */
static __always_inline __u16 bridge_nd_options(struct __sk_buff *skb, const struct cubelet_pkt *pkt)
{
	__u32 at = pkt->hdr.l4 + sizeof(struct bridge_nd), end = ETH_HLEN + pkt->hdr.size;
	struct bridge_nd_option option;

#pragma unroll
	for (int i = 0; i < BRIDGE_ND_OPTIONS; i++) {
		if (at >= end)
			break;
		if (bpf_skb_load_bytes(skb, at, &option, sizeof(option)) || option.length != 1)
			return BRIDGE_REASON_MALFORMED_ND;
		if (option.type == BRIDGE_ND_SOURCE || option.type == BRIDGE_ND_TARGET) {
			if (!cubelet_same_mac(option.mac, pkt->in.dst_mac))
				return BRIDGE_REASON_ND_SPOOFED;
		} else if (option.type != BRIDGE_ND_NONCE) {
			return BRIDGE_REASON_MALFORMED_ND;
		}
		at += sizeof(option);
	}
	return at == end ? 0 : BRIDGE_REASON_MALFORMED_ND;
}

/* Who sends it, and what does it claim? 0, or the reason to drop it. */
static __always_inline __u16 bridge_nd_refused(struct __sk_buff *skb, const struct cubelet_pkt *pkt,
					       const struct bridge_nd *nd)
{
	const struct cubelet_addr *source = &pkt->hdr.tuple.src;
	int solicits = nd->type == BRIDGE_ND_SOLICITATION;

	if (pkt->hdr.ttl != BRIDGE_ND_HOPS || nd->code || bridge_is_group(&nd->target) ||
	    (!solicits && bridge_unspecified(source)))
		return BRIDGE_REASON_MALFORMED_ND;
	if (pkt->entered != CUBELET_POD)
		return 0;
	if (!(solicits && bridge_unspecified(source)) && !bridge_nd_owned(pkt, source))
		return BRIDGE_REASON_ND_SPOOFED;
	if (!solicits && !bridge_nd_owned(pkt, &nd->target))
		return BRIDGE_REASON_ND_SPOOFED;
	return bridge_nd_options(skb, pkt);
}

/* Writes over a solicitation the advertisement of who has its target and this MAC. */
static __always_inline int bridge_nd_answer(struct __sk_buff *skb, struct cubelet_pkt *pkt,
					    const struct bridge_nd *asked, const __u8 *mac,
					    __u8 flags)
{
	struct {
		struct ipv6hdr ip;
		struct bridge_nd nd;
		struct bridge_nd_option option;
	} out = {};
	const __u16 length = sizeof(out) - sizeof(out.ip);
	struct cubelet_addr to = pkt->hdr.tuple.src;
	struct ethhdr eth = {};
	__u32 sum;

	flags |= BRIDGE_ND_OVERRIDE;
	if (bridge_unspecified(&to)) { /* its address is a duplicate: all are told (RFC 4862) */
		to.w[0] = bpf_htonl(0xff020000);
		to.w[3] = bpf_htonl(1);
	} else {
		flags |= BRIDGE_ND_SOLICITED;
	}
	*(__u8 *)&out.ip = 6 << 4;
	out.ip.payload_len = bpf_htons(length);
	out.ip.nexthdr = IPPROTO_ICMPV6;
	out.ip.hop_limit = BRIDGE_ND_HOPS;
	__builtin_memcpy(&out.ip.saddr, &asked->target, sizeof(out.ip.saddr));
	__builtin_memcpy(&out.ip.daddr, &to, sizeof(out.ip.daddr));
	out.nd.type = BRIDGE_ND_ADVERTISEMENT;
	out.nd.flags = flags;
	out.nd.target = asked->target;
	out.option.type = BRIDGE_ND_TARGET;
	out.option.length = 1;
	__builtin_memcpy(out.option.mac, mac, ETH_ALEN);
	sum = bpf_csum_diff(0, 0, (__be32 *)&out.ip.saddr, 32 + length,
			    bpf_htons(length) + bpf_htons(IPPROTO_ICMPV6));
	out.nd.checksum = ~cubelet_csum_fold(sum);
	__builtin_memcpy(eth.h_dest, pkt->in.dst_mac, ETH_ALEN);
	__builtin_memcpy(eth.h_source, mac, ETH_ALEN);
	eth.h_proto = pkt->hdr.ethertype;
	if (bpf_skb_change_tail(skb, sizeof(eth) + sizeof(out), 0) ||
	    bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &out, sizeof(out), 0))
		return cubelet_drop(pkt, BRIDGE_REASON_MALFORMED_ND);
	return cubelet_answer(pkt);
}

/*
 * Checks neighbour discovery, and answers it for the gateway and for pods, also where somebody
 * tries whether an address is free. Questions about the asker's own address, advertisements of
 * one's own and all that is not known here are for the others to hear: CUBELET_NEXT. No pod is a
 * router, nor does anybody here forward to groups by what their listeners say.
 */
static __always_inline int bridge_nd(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	const struct cubelet_addr gateway = CUBELET_GATEWAY_ADDRESS;
	struct bridge_neighbor_key key = {};
	struct bridge_neighbor *pod;
	struct bridge_nd nd;
	__u16 reason;
	__u8 type;

	if (bpf_skb_load_bytes(skb, pkt->hdr.l4, &type, 1))
		return cubelet_drop(pkt, BRIDGE_REASON_MALFORMED_ND);
	if (type != BRIDGE_ND_SOLICITATION && type != BRIDGE_ND_ADVERTISEMENT)
		return cubelet_drop(pkt, BRIDGE_REASON_LINK_CONTROL);
	if (pkt->hdr.l4 != ETH_HLEN + CUBELET_IP_BYTES ||
	    pkt->hdr.size < CUBELET_IP_BYTES + sizeof(nd) ||
	    bpf_skb_load_bytes(skb, pkt->hdr.l4, &nd, sizeof(nd)))
		return cubelet_drop(pkt, BRIDGE_REASON_MALFORMED_ND);
	reason = bridge_nd_refused(skb, pkt, &nd);
	if (reason)
		return cubelet_drop(pkt, reason);
	if (nd.type != BRIDGE_ND_SOLICITATION)
		return cubelet_next(pkt);
	/* the gateway's address is the host's own: it asks whether another has it */
	if (cubelet_addr_equal(&nd.target, &gateway) && pkt->entered != CUBELET_HOST)
		return bridge_nd_answer(skb, pkt, &nd, (const __u8[ETH_ALEN])CUBELET_ROUTER_MAC,
					BRIDGE_ND_ROUTER);
	key.address = nd.target;
	pod = cubelet_lookup(bridge_neighbors, &key);
	if (!pod || pod->ifindex == pkt->ifindex)
		return cubelet_next(pkt);
	return bridge_nd_answer(skb, pkt, &nd, pod->mac, 0);
}
#endif

/*
 * What a frame may carry. On the pods' own segment no IP in a form that a pod would take:
 * another family, a second tag or a mere priority tag would lead past NetworkPolicy. While
 * policies are in force, nothing on any segment that they do not see (MPLS, PPPoE, LLC,
 * anybody's own): two pods would speak IP in it, or whatever they please. Only checked ARP
 * and neighbour discovery.
 */
static __always_inline int bridge_carried(struct __sk_buff *skb, struct cubelet_pkt *pkt,
					  __u16 segment)
{
	switch (bpf_ntohs(pkt->hdr.ethertype)) {
	case ETH_P_IPV6:
#if CUBELET_FAMILY == 6
		if (pkt->hdr.tuple.protocol == IPPROTO_ICMPV6) /* as parsed: untagged */
			return bridge_nd(skb, pkt);
#endif
		/* fallthrough */
	case ETH_P_IP:
	case ETH_P_8021Q:
	case ETH_P_8021AD:
		if (!segment || CUBELET_POLICED)
			return cubelet_drop(pkt, BRIDGE_REASON_UNFILTERED_IP);
		return cubelet_next(pkt);
#if CUBELET_FAMILY == 4
	case ETH_P_ARP:
		return segment && !CUBELET_POLICED ? cubelet_next(pkt)
						   : bridge_arp(skb, pkt, segment);
#endif
	}
	return CUBELET_POLICED ? cubelet_drop(pkt, BRIDGE_REASON_UNFILTERED) : cubelet_next(pkt);
}

/* A frame that the core did not parse as IP of its family: forwarded, never cached. */
static __always_inline int bridge_frame(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	__u16 segment = skb->vlan_present ? skb->vlan_tci & BRIDGE_VLAN_ID : 0;
	__u16 reason;
	int verdict;

	if (skb->vlan_present && !BRIDGE_VLANS)
		return cubelet_drop(pkt, BRIDGE_REASON_TAGGED);
	if (pkt->entered == CUBELET_POD) {
		reason = bridge_source(pkt, segment);
		if (reason)
			return cubelet_drop(pkt, reason);
	}
	if (bridge_is_reserved(pkt->in.src_mac))
		return cubelet_drop(pkt, BRIDGE_REASON_RESERVED);
	verdict = bridge_carried(skb, pkt, segment);
	if (verdict != CUBELET_NEXT)
		return verdict;
	return bridge_link(pkt, segment);
}

static __always_inline int bridge_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	__u16 reason;

	if (pkt->mode == CUBELET_LINK)
		return bridge_frame(skb, pkt);
	if (pkt->mode == CUBELET_NEW && pkt->entered == CUBELET_POD && !pkt->own_mac) {
		reason = bridge_source(pkt, 0);
		if (reason)
			return cubelet_drop(pkt, reason);
	}
	/* what a cube has translated is no longer for whom it was addressed to */
	if (bridge_is_router(pkt->in.src_mac) || !cubelet_addr_equal(&pkt->cur.dst, &pkt->orig.dst))
		return cubelet_next(pkt);
	return bridge_ip(pkt);
}

/* The last step of a routed packet whose next hop is a pod of this node. */
static __always_inline int bridge_outward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct bridge_neighbor_key key = {};
	struct bridge_neighbor *pod;

	if (!(pkt->flags & CUBELET_TO_SEGMENT))
		return cubelet_next(pkt);
	key.address = pkt->next_hop;
	pod = cubelet_lookup(bridge_neighbors, &key);
	if (!pod)
		return bridge_nobody(pkt);
	__builtin_memcpy(pkt->out.dst_mac, pod->mac, ETH_ALEN);
	__builtin_memcpy(pkt->out.src_mac, (__u8[ETH_ALEN])CUBELET_ROUTER_MAC, ETH_ALEN);
	pkt->out.mtu = pod->mtu;
	pkt->out.ifindex = pod->ifindex;
	return cubelet_next(pkt);
}
