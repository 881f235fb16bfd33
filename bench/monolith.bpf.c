/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The datapath of a pod's port as one program, written by hand: what the five
 * cubes and the core do to packets of a replied flow and to those that open one,
 * with the same maps, the same records and the same frames out. It takes what
 * only a program that knows everything can take: no jump to a judge, no packet
 * metadata between steps, both records built side by side, the sender's address
 * and MAC checked in one table, checksum deltas worked out once for both
 * directions.
 *
 * It shares the layouts, the parser and the rewriter with the core. What is
 * neither, it hands to the core's own programs, as packets of flows that await
 * their answer, of stale verdicts, fragments, ICMP errors, and refusals that tell
 * the sender.
 */
#include "send.h"
#include "cubelet/parse.h"
#include "cubelet/socket.h"
#include "cubelet/uplink.h"
#include "share.h"

#define MONOLITH_AF_INET 2

/* The packet in hand, for the core's programs. */
static __always_inline struct cubelet_scratch *monolith_hand(struct __sk_buff *skb,
							     const struct cubelet_headers *h)
{
	struct cubelet_scratch *s = cubelet_scratch_get();

	if (!s)
		return NULL;
	s->pkt.hdr = *h;
	s->pkt.ifindex = skb->ifindex;
	s->pkt.entered = CUBELET_POD;
	s->pkt.mode = CUBELET_ARRIVED;
	s->pkt.missed = 0;
	s->pkt.stage = 0;
	return s;
}

static __always_inline int monolith_drop(struct __sk_buff *skb, const struct cubelet_headers *h,
					 __u16 reason)
{
	struct cubelet_scratch *s = monolith_hand(skb, h);

	return s ? cubelet_dropped(skb, &s->pkt, reason) : TC_ACT_SHOT;
}

/* Not for us: the core tracks it, and judges it by the cubes. */
static __always_inline int monolith_leave(struct __sk_buff *skb, const struct cubelet_headers *h)
{
	if (monolith_hand(skb, h))
		cubelet_jump(skb, CUBELET_JUMP_SLOW);
	return TC_ACT_SHOT;
}

/* A TCP reset or port unreachable goes back. */
static __always_inline int monolith_refuse(struct __sk_buff *skb, const struct cubelet_headers *h,
					   __u16 reason)
{
	struct cubelet_scratch *s = monolith_hand(skb, h);

	if (!s)
		return TC_ACT_SHOT;
	s->pkt.reason = reason;
	s->pkt.error_type = h->tuple.protocol == IPPROTO_TCP ? 0 : ICMP_DEST_UNREACH;
	s->pkt.error_code = ICMP_PORT_UNREACH;
	cubelet_jump(skb, CUBELET_JUMP_ERROR);
	return TC_ACT_SHOT;
}

/* Six bytes as a number. */
static __always_inline __u64 monolith_mac(const __u8 *mac)
{
	return (__u64)mac[0] | (__u64)mac[1] << 8 | (__u64)mac[2] << 16 | (__u64)mac[3] << 24 |
	       (__u64)mac[4] << 32 | (__u64)mac[5] << 40;
}

static __always_inline __u32 monolith_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

/* Spreads clients over backends: murmur3, of the words in lbrp's order so that both agree. */
static __always_inline __u32 monolith_spread(const struct cubelet_tuple *t)
{
	const __u32 words[3] = { t->src.w[0], t->dst.w[0], (__u32)t->sport << 16 | t->dport };
	__u32 hash = t->protocol;

#pragma unroll
	for (int i = 0; i < 3; i++) {
		__u32 word = words[i] * 0xcc9e2d51;

		hash ^= (word << 15 | word >> 17) * 0x1b873593;
		hash = (hash << 13 | hash >> 19) * 5 + 0xe6546b64;
	}
	hash = (hash ^ hash >> 16) * 0x85ebca6b;
	hash = (hash ^ hash >> 13) * 0xc2b2ae35;
	return hash ^ hash >> 16;
}

enum monolith_served {
	MONOLITH_SERVED,
	MONOLITH_NO_BACKEND, /* its set was removed under us */
	MONOLITH_NO_SERVICE,
	MONOLITH_NO_ENDPOINTS,
	MONOLITH_NO_LOCAL_ENDPOINTS,
};

/* Services: makes f->to the backend's. */
static __always_inline int monolith_serve(const struct cubelet_tuple *from, struct cubelet_flow *f)
{
	struct lbrp_frontend_key asked = {};
	struct lbrp_backend_key chosen = {};
	struct lbrp_frontend *service;
	struct lbrp_backend *backend;

	asked.address = from->dst;
	asked.port = from->dport;
	asked.protocol = from->protocol;
	asked.scope = LBRP_INSIDE;
	service = cubelet_lookup(lbrp_services, &asked);
	if (!service) {
		asked.port = 0;
		asked.protocol = 0;
		if (cubelet_lookup(lbrp_services, &asked) &&
		    !cubelet_lookup(lbrp_nodes, &from->dst))
			return MONOLITH_NO_SERVICE;
		return MONOLITH_SERVED;
	}
	if (!service->count)
		return service->elsewhere ? MONOLITH_NO_LOCAL_ENDPOINTS : MONOLITH_NO_ENDPOINTS;
	chosen.set_id = service->set_id;
	chosen.index = (__u64)monolith_spread(from) * service->count >> 32;
	backend = cubelet_lookup(lbrp_backends, &chosen);
	if (!backend)
		return MONOLITH_NO_BACKEND;
	f->to.dst = backend->address;
	f->to.dport = backend->port;
	return MONOLITH_SERVED;
}

static __always_inline int monolith_port_allowed(const struct firewall_port_set *ports,
						 const struct cubelet_tuple *to)
{
	struct firewall_port_key key = {};

	if (!ports || ports->set == FIREWALL_NOTHING)
		return 0;
	if (ports->set == FIREWALL_EVERYTHING)
		return 1;
	key.prefixlen = FIREWALL_PORT_BITS;
	key.set = ports->set;
	key.protocol = to->protocol;
	key.port = to->dport;
	return !!cubelet_lookup(firewall_ports, &key);
}

/* NetworkPolicy: may `pod` speak with `peer`, to the port of `to`? */
static __always_inline int monolith_allowed(const struct cubelet_addr *pod, __u8 direction,
					    const struct cubelet_addr *peer,
					    const struct cubelet_tuple *to)
{
	struct firewall_isolated_key whose = {};
	struct firewall_block_key block = {};
	struct firewall_peer_key key = {};
	struct firewall_identity *who;
	struct firewall_policy *policy;

	whose.address = *pod;
	whose.direction = direction;
	policy = cubelet_lookup(firewall_isolated, &whose);
	if (!policy)
		return 1;
	if (policy->peers) {
		who = cubelet_lookup(firewall_identities, peer);
		if (who) {
			key.prefixlen = FIREWALL_PEER_BITS;
			key.policy = policy->policy;
			key.namespace = who->namespace;
			key.pod = who->pod;
			if (monolith_port_allowed(cubelet_lookup(firewall_peers, &key), to))
				return 1;
			if (!policy->blocks)
				return 0;
		}
	}
	block.prefixlen = FIREWALL_BLOCK_BITS;
	block.policy = policy->policy;
	block.network = *peer;
	return monolith_port_allowed(cubelet_lookup(firewall_blocks, &block), to);
}

/* The pod of this node that has the flow's destination. 0 if there is none. */
static __always_inline struct bridge_neighbor *monolith_neighbor(struct cubelet_flow *f)
{
	struct bridge_neighbor *pod = cubelet_lookup(bridge_neighbors, &f->to.dst);

	if (!pod)
		return NULL;
	__builtin_memcpy(f->leaves.dst_mac, pod->mac, ETH_ALEN);
	f->leaves.mtu = pod->mtu;
	f->leaves.ifindex = pod->ifindex;
	f->leaves.port_class = CUBELET_POD;
	return pod;
}

/* How would the kernel forward a packet of that many bytes? */
static __always_inline long monolith_ask(struct __sk_buff *skb, const struct cubelet_flow *f,
					 struct bpf_fib_lookup *fib, __u16 bytes)
{
	fib->family = MONOLITH_AF_INET;
	fib->l4_protocol = f->to.protocol;
	fib->sport = f->to.sport;
	fib->dport = f->to.dport;
	fib->tot_len = bytes;
	fib->ifindex = CUBELET_GATEWAY_IFINDEX;
	fib->ipv4_src = f->to.src.w[0];
	fib->ipv4_dst = f->to.dst.w[0];
	return bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
}

/*
 * Out by an uplink, if the kernel's routes say so; `own` becomes its address. The kernel tells
 * the MTU of a route whose next hop it does not know only to who asks for too much.
 */
static __always_inline int monolith_uplink(struct __sk_buff *skb, struct cubelet_flow *f,
					   struct cubelet_addr *own)
{
	struct bpf_fib_lookup fib = {}, wide = {};
	const struct cubelet_uplink *uplink;
	long found = monolith_ask(skb, f, &fib, 1);

	if (found == BPF_FIB_LKUP_RET_NO_NEIGH) {
		fib.mtu_result = 0;
		if (monolith_ask(skb, f, &wide, 0xffff) == BPF_FIB_LKUP_RET_FRAG_NEEDED)
			fib.mtu_result = wide.mtu_result;
	} else if (found != BPF_FIB_LKUP_RET_SUCCESS) {
		return -1;
	}
	uplink = cubelet_uplink_at(fib.ifindex);
	if (!uplink || fib.family != MONOLITH_AF_INET)
		return -1;
	*own = uplink->address;
	f->leaves.mtu = CUBELET_UPLINK_MTU;
	if (fib.mtu_result > 1 && fib.mtu_result < CUBELET_UPLINK_MTU)
		f->leaves.mtu = fib.mtu_result;
	f->leaves.remote = fib.ipv4_dst;
	f->leaves.ifindex = fib.ifindex;
	f->leaves.port_class = CUBELET_UPLINK;
	__builtin_memcpy(f->leaves.src_mac, uplink->mac, ETH_ALEN);
	return 0;
}

/* Layer 3: fills f->leaves. -1: something to be refused, answered or told. */
static __always_inline int monolith_route(struct __sk_buff *skb, struct cubelet_flow *f,
					  struct cubelet_addr *own)
{
	__u32 first = bpf_ntohl(f->to.dst.w[0]);
	struct router_prefix key = {};
	struct router_route *route;

	if (first >> 24 == 0 || first >> 24 == 127 || first >= 0xe0000000 || first >> 16 == 0xa9fe)
		return -1;
	key.length = 32;
	key.address = f->to.dst;
	route = cubelet_lookup(router_routes, &key);
	if (!route)
		return -1;
	f->flags = CUBELET_FLOW_ROUTED;
	__builtin_memcpy(f->leaves.src_mac, (__u8[ETH_ALEN])CUBELET_ROUTER_MAC, ETH_ALEN);
	switch (route->kind) {
	case 0: /* a pod of this node */
		return monolith_neighbor(f) ? 0 : -1;
	case 1: /* the node itself; pings of the gateway are answered elsewhere */
		if (f->to.protocol == IPPROTO_ICMP)
			return -1;
		__builtin_memcpy(f->leaves.dst_mac, (__u8[ETH_ALEN])CUBELET_GATEWAY_MAC, ETH_ALEN);
		f->leaves.mtu = CUBELET_UPLINK_MTU;
		f->leaves.ifindex = CUBELET_GATEWAY_IFINDEX;
		f->leaves.port_class = CUBELET_HOST;
		return 0;
	case 2: /* a pod of another node */
		__builtin_memcpy(f->leaves.dst_mac, (__u8[ETH_ALEN])CUBELET_ROUTER_MAC, ETH_ALEN);
		f->leaves.mtu = CUBELET_OVERLAY_MTU;
		f->leaves.remote = route->remote;
		f->leaves.ifindex = CUBELET_OVERLAY_IFINDEX;
		f->leaves.port_class = CUBELET_OVERLAY;
		return 0;
	case 3:
		return monolith_uplink(skb, f, own);
	}
	return -1;
}

/* Fills f->leaves: to a neighbor by its MAC address, or by the router. */
static __always_inline int monolith_path(struct __sk_buff *skb, const struct cubelet_tuple *from,
					 struct cubelet_flow *f, struct cubelet_addr *own)
{
	__u64 to = monolith_mac(f->enters.src_mac);
	struct bridge_neighbor *pod;

	if (to == monolith_mac((__u8[ETH_ALEN])CUBELET_ROUTER_MAC) ||
	    f->to.dst.w[0] != from->dst.w[0])
		return monolith_route(skb, f, own);
	pod = monolith_neighbor(f);
	if (!pod || monolith_mac(pod->mac) != to || pod->ifindex == skb->ifindex)
		return -1;
	__builtin_memcpy(f->leaves.src_mac, f->enters.dst_mac, ETH_ALEN);
	return 0;
}

/* Source translation of what leaves the cluster, or returns to its own sender. */
static __always_inline void monolith_masquerade(const struct cubelet_headers *h,
						struct cubelet_flow *f,
						const struct cubelet_addr *node)
{
	const struct cubelet_addr hairpin = CUBELET_HAIRPIN_ADDRESS;
	const __u16 count = CUBELET_SNAT_LAST - CUBELET_SNAT_FIRST + 1;
	struct nat_exempt_key key = {};
	__u16 own;

	if (f->leaves.port_class == CUBELET_POD && f->leaves.ifindex == f->enters.ifindex)
		f->to.src = hairpin;
	if (f->leaves.port_class != CUBELET_UPLINK)
		return;
	key.prefixlen = 32;
	key.network = f->to.dst;
	if (cubelet_lookup(nat_exempt, &key))
		return;
	f->to.src = *node;
	if (!h->ports)
		return;
	f->flags |= CUBELET_FLOW_RANGE;
	own = bpf_ntohs(h->tuple.sport) - CUBELET_SNAT_FIRST;
	if (own >= count)
		f->to.sport = bpf_htons(CUBELET_SNAT_FIRST + cubelet_tuple_hash(&h->tuple) % count);
}

/* May the owner have one more port towards the destination, and is it none of the host's? */
static __always_inline int monolith_port_free(struct __sk_buff *skb, struct cubelet_scratch *s)
{
	const struct cubelet_flow *f = &s->forward;
	const __s32 range = CUBELET_SNAT_LAST - CUBELET_SNAT_FIRST + 1;
	struct cubelet_port_slots slots = cubelet_port_slots(
		&f->to.dst, f->to.dport, f->to.protocol, cubelet_share_slot(&f->enters));
	__s32 held = cubelet_held(&cubelet_port_counts[slots.own]);

	return (held < 8 * (range - range / 8 - cubelet_held(&cubelet_port_counts[slots.all])) ||
		held <= range / 128) &&
	       !cubelet_node_socket(skb, &s->key);
}

/* Checksum deltas of both directions, and whether the flow is translated at all. */
static __always_inline void monolith_deltas(const struct cubelet_tuple *from,
					    struct cubelet_flow *f, struct cubelet_flow *r)
{
	__u32 ports = *(const __u32 *)&from->sport, new_ports = *(const __u32 *)&f->to.sport;
	__u32 routed = f->flags & CUBELET_FLOW_ROUTED ? 0xfffe : 0; /* TTL - 1 */
	__u32 addresses = 0;

	if ((f->to.src.w[0] ^ from->src.w[0]) | (f->to.dst.w[0] ^ from->dst.w[0]) |
	    (ports ^ new_ports)) {
		addresses = monolith_fold((__u64)(__u32)~from->src.w[0] + f->to.src.w[0] +
					  (__u32)~from->dst.w[0] + f->to.dst.w[0]);
		f->flags |= CUBELET_FLOW_TRANSLATED;
		f->l4_delta = addresses;
		f->port_delta = monolith_fold((__u64)(__u32)~ports + new_ports);
		r->l4_delta = ~f->l4_delta;
		r->port_delta = ~f->port_delta;
	}
	f->l3_delta = cubelet_csum_fold(cubelet_csum_fold(addresses) + routed);
	r->l3_delta = cubelet_csum_fold(cubelet_csum_fold(r->l4_delta) + routed);
	r->flags = f->flags ^ CUBELET_FLOW_REPLY;
}

/* Both records. Only the forward one has counted the packet. */
static __always_inline void monolith_build(struct __sk_buff *skb, const struct cubelet_tuple *from,
					   struct cubelet_flow *f, struct cubelet_flow *r)
{
	f->last_seen = bpf_jiffies64();
	f->timeout = cubelet_flow_timeout(from->protocol, CUBELET_FLOW_PENDING);
	monolith_deltas(from, f, r);
	f->packets = 1;
	f->bytes = skb->len;
	r->enters = f->leaves;
	r->leaves = f->enters;
	cubelet_tuple_invert(&r->to, from);
	r->last_seen = f->last_seen;
	r->epoch_sum = f->epoch_sum;
	r->epoch_src = f->epoch_src;
	r->epoch_dst = f->epoch_dst;
	r->epoch_backend = f->epoch_backend;
	r->timeout = f->timeout;
}

/* Writes both records. -1: somebody was there before. */
static __always_inline int monolith_commit(struct __sk_buff *skb, const struct cubelet_tuple *from,
					   struct cubelet_scratch *s)
{
	struct cubelet_flow *f = &s->forward, *r = &s->reply;

	cubelet_tuple_invert(&s->key, &f->to);
	if (f->flags & CUBELET_FLOW_RANGE && !monolith_port_free(skb, s))
		return -1;
	if (cubelet_lookup(cubelet_flows, &s->key) || cubelet_lookup(cubelet_pending, &s->key))
		return -1;
	monolith_build(skb, from, f, r);
	if (cubelet_update(cubelet_pending, &s->key, r, BPF_ANY))
		return -1;
	if (!cubelet_update(cubelet_pending, from, f, BPF_NOEXIST))
		return 0;
	cubelet_delete(cubelet_pending, &s->key);
	return -1;
}

/* Where the packet came from; -1 if that is not the port's own pod. */
static __always_inline int monolith_enter(struct __sk_buff *skb, const struct cubelet_tuple *from,
					  struct cubelet_flow *f)
{
	void *data = (void *)(long)skb->data;
	struct cubelet_port_info *port;
	struct ethhdr *eth = data;

	f->enters.ifindex = skb->ifindex;
	port = cubelet_lookup(cubelet_ports, &f->enters.ifindex);
	if (!port || data + ETH_HLEN > (void *)(long)skb->data_end)
		return -1;
	__builtin_memcpy(f->enters.dst_mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy(f->enters.src_mac, eth->h_dest, ETH_ALEN);
	f->enters.mtu = CUBELET_UPLINK_MTU;
	if (port->address.w[0] != from->src.w[0] ||
	    monolith_mac(port->mac) != monolith_mac(f->enters.dst_mac))
		return -1;
	return 0;
}

/* The first packet of a flow. */
static __always_inline int monolith_open(struct __sk_buff *skb, const struct cubelet_headers *h)
{
	const volatile struct cubelet_epochs *epochs = cubelet_epoch_values;
	struct cubelet_scratch *s = cubelet_scratch_get();
	const struct cubelet_tuple *from = &h->tuple;
	struct cubelet_addr own = {};
	struct cubelet_flow *f;

	if (!s)
		return TC_ACT_SHOT;
	f = &s->forward;
	__builtin_memset(f, 0, 2 * sizeof(*f)); /* and s->reply, which follows */
	if (monolith_enter(skb, from, f))
		return monolith_leave(skb, h);
	f->to = *from;
	f->epoch_src = cubelet_epoch_bucket(&from->src);
	f->epoch_dst = cubelet_epoch_bucket(&from->dst);
	f->epoch_sum = epochs->global + epochs->datapath +
		       epochs->address[f->epoch_src % CUBELET_EPOCH_BUCKETS] +
		       epochs->address[f->epoch_dst % CUBELET_EPOCH_BUCKETS];
	switch (monolith_serve(from, f)) {
	case MONOLITH_NO_BACKEND:
		return monolith_leave(skb, h);
	case MONOLITH_NO_SERVICE:
		return monolith_refuse(skb, h, LBRP_REASON_NO_SERVICE);
	case MONOLITH_NO_ENDPOINTS:
		return monolith_refuse(skb, h, LBRP_REASON_NO_ENDPOINTS);
	case MONOLITH_NO_LOCAL_ENDPOINTS:
		return monolith_drop(skb, h, LBRP_REASON_NO_LOCAL_ENDPOINTS);
	}
	f->epoch_backend = cubelet_epoch_bucket(&f->to.dst);
	f->epoch_sum += epochs->address[f->epoch_backend % CUBELET_EPOCH_BUCKETS];
	if (f->to.dst.w[0] != from->src.w[0] &&
	    !monolith_allowed(&from->src, FIREWALL_EGRESS, &f->to.dst, &f->to))
		return monolith_drop(skb, h, FIREWALL_REASON_EGRESS_DENIED);
	if (monolith_path(skb, from, f, &own))
		return monolith_leave(skb, h);
	if (f->leaves.port_class == CUBELET_POD && f->leaves.ifindex != f->enters.ifindex &&
	    !monolith_allowed(&f->to.dst, FIREWALL_INGRESS, &from->src, &f->to))
		return monolith_drop(skb, h, FIREWALL_REASON_INGRESS_DENIED);
	monolith_masquerade(h, f, &own);
	if (!cubelet_passes(h, &f->leaves, f->flags & CUBELET_FLOW_ROUTED) ||
	    monolith_commit(skb, from, s))
		return monolith_leave(skb, h);
	return cubelet_send(skb, h, f, 0);
}

int monolith_pod(struct __sk_buff *skb)
{
	struct cubelet_headers h;
	struct cubelet_flow *f;
	int parsed = cubelet_parse(skb, &h);

	if (__builtin_expect(parsed == CUBELET_PLAIN, 1)) {
		f = cubelet_lookup(cubelet_flows, &h.tuple);
		if (f && f->enters.port_class == CUBELET_POD && f->enters.ifindex == skb->ifindex &&
		    cubelet_flow_current(f) && (__u32)bpf_jiffies64() - f->last_seen < CUBELET_HZ &&
		    cubelet_passes(&h, &f->leaves, f->flags & CUBELET_FLOW_ROUTED)) {
			f->packets++;
			f->bytes += skb->len;
			return cubelet_send(skb, &h, f, 0);
		}
		if (f)
			return monolith_leave(skb, &h);
	} else {
		if (parsed == CUBELET_MALFORMED)
			return monolith_drop(skb, &h, CUBELET_REASON_MALFORMED);
		if (!h.ip || h.fragment || h.icmp_error || cubelet_lookup(cubelet_flows, &h.tuple))
			return monolith_leave(skb, &h);
	}
	/* of TCP only a SYN opens a flow */
	if (cubelet_lookup(cubelet_pending, &h.tuple) ||
	    (h.tuple.protocol == IPPROTO_TCP &&
	     (h.tcp_flags & (CUBELET_TCP_SYN | CUBELET_TCP_ACK | CUBELET_TCP_FIN |
			     CUBELET_TCP_RST)) != CUBELET_TCP_SYN))
		return monolith_leave(skb, &h);
	return monolith_open(skb, &h);
}
