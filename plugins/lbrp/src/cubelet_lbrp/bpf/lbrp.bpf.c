/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * lbrp: sends what opens a flow to a Service on to one of its backends.
 *
 * lbrp_services says who serves an address and port: {10.96.0.10, 53, UDP,
 * inside} -> {set 0x5e7, 2 backends}. lbrp_backends lists the set by number,
 * {0x5e7, 1} -> 10.244.1.4:5353; lbrp_members finds it by address, {0x5e7,
 * 10.244.1.4, 5353} -> present.
 * Port 0 of protocol 0 marks a virtual address; lbrp_nodes are real ones.
 * lbrp_sources has the networks that may ask: {0x7a9, 192.0.2.0/24} -> present.
 * lbrp_affinities has a client's last backend: {0x3c1, 10.244.1.9} -> 10.244.1.4:5353.
 *
 * A set never changes: other backends are another set, written before the
 * service is switched to it. Who finds its set removed under it reads again.
 */
#include "cubelet.h"

CUBELET_INLINE struct lbrp_frontend_key lbrp_key(const struct cubelet_pkt *pkt, __be16 port,
						 __u8 protocol)
{
	struct lbrp_frontend_key key = {};

	key.address = pkt->orig.dst;
	key.port = port;
	key.protocol = protocol;
	if (pkt->in.port_class == CUBELET_UPLINK)
		key.scope = LBRP_OUTSIDE;
	else if (pkt->in.port_class == CUBELET_HOST && cubelet_addr_loopback(&key.address))
		key.scope = LBRP_NODE;
	else
		key.scope = LBRP_INSIDE;
	return key;
}

CUBELET_INLINE struct lbrp_frontend *lbrp_frontend(const struct cubelet_pkt *pkt)
{
	struct lbrp_frontend_key key = lbrp_key(pkt, pkt->orig.dport, pkt->orig.protocol);

	return cubelet_lookup(lbrp_services, &key);
}

/* Does the address belong to a Service alone? A node's keeps its own ports. */
CUBELET_INLINE int lbrp_virtual(const struct cubelet_pkt *pkt)
{
	struct lbrp_frontend_key key = lbrp_key(pkt, 0, 0);
	struct lbrp_node_key node = {};

	if (!cubelet_lookup(lbrp_services, &key))
		return 0;
	node.address = pkt->orig.dst;
	return !cubelet_lookup(lbrp_nodes, &node);
}

/* Who asks? The node is known by its own address, whatever its stack sends from. */
CUBELET_INLINE struct cubelet_addr lbrp_client(const struct cubelet_pkt *pkt)
{
	const struct cubelet_addr node = CUBELET_NODE_ADDRESS;

	return pkt->in.port_class == CUBELET_HOST ? node : pkt->orig.src;
}

/* Is the client among those whom a load balancer's address serves? */
CUBELET_INLINE int lbrp_may_ask(const struct cubelet_pkt *pkt, const struct lbrp_frontend *frontend)
{
	struct lbrp_source_key key = {};

	if (!frontend->ranges)
		return 1;
	key.prefixlen = LBRP_SOURCE_BITS;
	key.ranges = frontend->ranges;
	key.network = lbrp_client(pkt);
	return !!cubelet_lookup(lbrp_sources, &key);
}

/* One round of murmur3's mixing, which is enough between words. */
CUBELET_INLINE __u32 lbrp_mix(__u32 hash, __u32 word)
{
	word *= 0xcc9e2d51;
	word = (word << 15 | word >> 17) * 0x1b873593;
	hash ^= word;
	return (hash << 13 | hash >> 19) * 5 + 0xe6546b64;
}

/*
 * Of the tuple alone: whichever CPU judges a flow's first packet, and however
 * often it is judged, the same set gives the same backend.
 */
CUBELET_INLINE __u32 lbrp_hash(const struct cubelet_tuple *tuple)
{
	__u32 hash = lbrp_mix(tuple->protocol, cubelet_addr_fold(&tuple->src));

	hash = lbrp_mix(hash, cubelet_addr_fold(&tuple->dst));
	hash = lbrp_mix(hash, (__u32)tuple->sport << 16 | tuple->dport);
	hash = (hash ^ hash >> 16) * 0x85ebca6b;
	hash = (hash ^ hash >> 13) * 0xc2b2ae35;
	return hash ^ hash >> 16;
}

/* Does the client keep its backend from one flow to the next? */
CUBELET_INLINE int lbrp_sticky(const struct lbrp_frontend *frontend)
{
	return LBRP_AFFINITY && frontend->sticky;
}

/*
 * NULL if there is none, or if the set was removed since the service was read.
 * A client that keeps its backend has one by its address and by what was
 * remembered of it, so that its flows on other CPUs choose the same at once.
 */
CUBELET_INLINE struct lbrp_backend *
lbrp_choose(const struct cubelet_pkt *pkt, const struct lbrp_frontend *frontend, __u32 remembered)
{
	struct lbrp_backend_key key = {};
	struct cubelet_tuple client = {};
	__u32 hash;

	if (lbrp_sticky(frontend)) {
		client.src = lbrp_client(pkt);
		client.sport = remembered >> 16;
		client.dport = remembered;
		hash = lbrp_hash(&client);
	} else {
		hash = lbrp_hash(&pkt->orig);
	}
	key.set_id = frontend->set_id;
	key.index = (__u64)hash * frontend->count >> 32;
	return cubelet_lookup(lbrp_backends, &key);
}

CUBELET_INLINE struct lbrp_present *lbrp_member(const struct lbrp_frontend *frontend,
						const struct cubelet_addr *address, __be16 port)
{
	struct lbrp_member_key key = {};

	key.set_id = frontend->set_id;
	key.address = *address;
	key.port = port;
	return cubelet_lookup(lbrp_members, &key);
}

CUBELET_INLINE struct lbrp_affinity_key lbrp_remembered(const struct cubelet_pkt *pkt,
							const struct lbrp_frontend *frontend)
{
	struct lbrp_affinity_key key = {};

	key.group = frontend->group;
	key.client = lbrp_client(pkt);
	return key;
}

/*
 * Sends it where the client's last flow went; 0 if that is too long ago or
 * serves no more. Says when that was.
 */
CUBELET_INLINE int lbrp_recall(struct cubelet_pkt *pkt, const struct lbrp_frontend *frontend,
			       __u32 *when)
{
	struct lbrp_affinity_key key = lbrp_remembered(pkt, frontend);
	struct lbrp_affinity *found, last;
	__u32 now = bpf_jiffies64();

	found = cubelet_lookup(lbrp_affinities, &key);
	if (!found)
		return 0;
	last = *found; /* another client may get the record meanwhile */
	*when = last.seen;
	/* signed: another CPU may be a tick ahead */
	if ((__s32)(now - last.seen) > (__s32)(frontend->sticky * CUBELET_HZ))
		return 0;
	if (!lbrp_member(frontend, &last.address, last.port))
		return 0;
	found->seen = now;
	cubelet_set_dst(pkt, &last.address, last.port);
	return 1;
}

CUBELET_INLINE void lbrp_remember(const struct cubelet_pkt *pkt,
				  const struct lbrp_frontend *frontend,
				  const struct lbrp_backend *backend)
{
	struct lbrp_affinity_key key = lbrp_remembered(pkt, frontend);
	struct lbrp_affinity last = {};

	last.address = backend->address;
	last.port = backend->port;
	last.seen = bpf_jiffies64();
	cubelet_update(lbrp_affinities, &key, &last, BPF_ANY);
}

CUBELET_INLINE int lbrp_balance(struct cubelet_pkt *pkt, const struct lbrp_frontend *frontend)
{
	struct lbrp_backend *backend;
	__u32 remembered = 0;

	if (frontend->keeps)
		cubelet_keep_src(pkt);
	if (!frontend->count && frontend->elsewhere)
		return cubelet_drop(pkt, LBRP_REASON_NO_LOCAL_ENDPOINTS);
	/* the node's stack refuses what asks 127.0.0.1, as it does any of its ports */
	if (!frontend->count && cubelet_addr_loopback(&pkt->orig.dst))
		return cubelet_next(pkt);
	if (!frontend->count)
		return cubelet_refuse(pkt, LBRP_REASON_NO_ENDPOINTS);
	if (lbrp_sticky(frontend) && lbrp_recall(pkt, frontend, &remembered))
		return cubelet_next(pkt);
	backend = lbrp_choose(pkt, frontend, remembered);
	if (!backend) {
		frontend = lbrp_frontend(pkt);
		if (frontend)
			backend = lbrp_choose(pkt, frontend, remembered);
	}
	if (!backend)
		return cubelet_drop(pkt, LBRP_REASON_NO_BACKEND);
	if (lbrp_sticky(frontend))
		lbrp_remember(pkt, frontend, backend);
	cubelet_set_dst(pkt, &backend->address, backend->port);
	return cubelet_next(pkt);
}

/*
 * A known flow: does its backend still take what is new? Only datagrams and what has not
 * been answered move on. A connection stays with its backend, whatever has become of the
 * endpoint or of the service: whether the backend is still there, the core knows.
 */
CUBELET_INLINE int lbrp_recheck(struct cubelet_pkt *pkt, const struct lbrp_frontend *frontend)
{
	struct lbrp_present *member;

	if (cubelet_connected(pkt))
		return cubelet_next(pkt);
	if (!frontend)
		return cubelet_restart(pkt, LBRP_REASON_SERVICE_GONE);
	member = lbrp_member(frontend, &pkt->cur.dst, pkt->cur.dport);
	if (!member) {
		frontend = lbrp_frontend(pkt);
		if (frontend)
			member = lbrp_member(frontend, &pkt->cur.dst, pkt->cur.dport);
	}
	if (member)
		return cubelet_next(pkt);
	return cubelet_restart(pkt, LBRP_REASON_BACKEND_GONE);
}

/*
 * A place at an address of this node's: does a socket of the node's own get the packet?
 * A connection that the node has goes on. What people name as external IP also leaves
 * alone what listens there: whoever may write a Service could take over the node's servers.
 */
CUBELET_INLINE int lbrp_nodes_own(struct __sk_buff *skb, const struct cubelet_pkt *pkt,
				  const struct lbrp_frontend *frontend)
{
	if (cubelet_dst_translated(pkt))
		return 0;
	if (frontend->shared == LBRP_YIELDS)
		return cubelet_node_socket(skb, &pkt->orig) != CUBELET_NO_SOCKET;
	return frontend->shared && !cubelet_rejudging(pkt) &&
	       pkt->in.port_class == CUBELET_UPLINK && cubelet_node_connected(skb, &pkt->orig);
}

static __always_inline int lbrp_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct lbrp_frontend *frontend;

	frontend = lbrp_frontend(pkt);
	if (frontend && !lbrp_may_ask(pkt, frontend))
		return cubelet_drop(pkt, LBRP_REASON_SOURCE_RANGE);
	if (frontend && lbrp_nodes_own(skb, pkt, frontend))
		return cubelet_next(pkt);
	if (cubelet_rejudging(pkt) && (frontend || cubelet_dst_translated(pkt)))
		return lbrp_recheck(pkt, frontend);
	if (frontend)
		return lbrp_balance(pkt, frontend);
	if (lbrp_virtual(pkt))
		return cubelet_refuse(pkt, LBRP_REASON_NO_SERVICE);
	return cubelet_next(pkt);
}
