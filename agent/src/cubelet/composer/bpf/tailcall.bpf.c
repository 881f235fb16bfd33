/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The judge, as a chain of programs joined by constant-index tail calls, one a
 * cube and place: for compositions too large for the verifier in one piece, and
 * as the baseline that the fused judge is measured against.
 *
 * The composer adds a program for each link, which calls cubelet_chain_link():
 * `next` is the jump slot of the following link of the same chain, `kind` says
 * what the chain's end leads to. CUBELET_INWARD_POD and the like, which it
 * defines too, are the slots where the parts of the chain begin.
 */
enum cubelet_link {
	CUBELET_LINK_INWARD,
	CUBELET_LINK_CORE,
	CUBELET_LINK_CORE_OUTWARD,
	CUBELET_LINK_OUTWARD,
};

CUBELET_INLINE int cubelet_chain_end(struct __sk_buff *skb, struct cubelet_pkt *pkt, int verdict)
{
	pkt->verdict = verdict;
	cubelet_jump(skb, CUBELET_JUMP_FINISH);
	return cubelet_dropped(skb, pkt, CUBELET_REASON_JUMP);
}

CUBELET_INLINE int cubelet_stacks_run(const struct cubelet_pkt *pkt)
{
	return pkt->mode != CUBELET_LINK && pkt->mode != CUBELET_FIND_ORIGIN;
}

/* One jump to where a class's stack begins: constant indexes, so the kernel makes them direct. */
CUBELET_INLINE void cubelet_chain_class(struct __sk_buff *skb, __u8 class, const __u32 pod,
					const __u32 host, const __u32 overlay, const __u32 uplink)
{
	switch (class) {
	case CUBELET_POD:
		cubelet_jump(skb, pod);
		break;
	case CUBELET_HOST:
		cubelet_jump(skb, host);
		break;
	case CUBELET_OVERLAY:
		cubelet_jump(skb, overlay);
		break;
	default:
		cubelet_jump(skb, uplink);
	}
}

/* After the core has forwarded: its outward half, then the leaving port's stack. */
CUBELET_INLINE int cubelet_chain_outward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	pkt->verdict = CUBELET_FORWARD;
	if (cubelet_stacks_run(pkt))
		cubelet_chain_class(skb, pkt->out.port_class, CUBELET_OUTWARD_POD,
				    CUBELET_OUTWARD_HOST, CUBELET_OUTWARD_OVERLAY,
				    CUBELET_OUTWARD_UPLINK);
	else
		cubelet_jump(skb, CUBELET_JUMP_FINISH);
	return cubelet_dropped(skb, pkt, CUBELET_REASON_JUMP);
}

CUBELET_INLINE int cubelet_chain_step(struct __sk_buff *skb, struct cubelet_pkt *pkt, int verdict,
				      const int kind, const __u32 next)
{
	if (kind == CUBELET_LINK_CORE && verdict == CUBELET_FORWARD) {
		if (CUBELET_CORE_OUTWARD_FIRST) {
			cubelet_jump(skb, CUBELET_CORE_OUTWARD_FIRST);
			return cubelet_dropped(skb, pkt, CUBELET_REASON_JUMP);
		}
		return cubelet_chain_outward(skb, pkt);
	}
	if (verdict != CUBELET_NEXT)
		return cubelet_chain_end(skb, pkt, verdict);
	if (next) {
		cubelet_jump(skb, next);
		return cubelet_dropped(skb, pkt, CUBELET_REASON_JUMP);
	}
	if (kind == CUBELET_LINK_CORE_OUTWARD)
		return cubelet_chain_outward(skb, pkt);
	return cubelet_chain_end(skb, pkt,
				 kind == CUBELET_LINK_OUTWARD ? CUBELET_FORWARD : CUBELET_NEXT);
}

/* One link: the whole of each program that the composer adds. */
CUBELET_INLINE int cubelet_chain_link(struct __sk_buff *skb, const __u8 number,
				      int (*function)(struct __sk_buff *, struct cubelet_pkt *),
				      const int kind, const __u32 next)
{
	struct cubelet_scratch *s = cubelet_scratch_get();

	if (!s)
		return TC_ACT_SHOT;
	s->pkt.stage = number;
	return cubelet_chain_step(skb, &s->pkt, function(skb, &s->pkt), kind, next);
}

int cubelet_slow(struct __sk_buff *skb)
{
	struct cubelet_scratch *s = cubelet_scratch_get();
	struct cubelet_flow *f = NULL;

	if (!s)
		return TC_ACT_SHOT;
	if (s->pkt.mode == CUBELET_ARRIVED) {
		int tracked = cubelet_track(skb, s, &f);

		if (tracked != CUBELET_TRACKED_JUDGE)
			return cubelet_settled(skb, s, tracked, f);
	}
	if (cubelet_stacks_run(&s->pkt))
		cubelet_chain_class(skb, s->pkt.in.port_class, CUBELET_INWARD_POD,
				    CUBELET_INWARD_HOST, CUBELET_INWARD_OVERLAY,
				    CUBELET_INWARD_UPLINK);
	else
		cubelet_chain_class(skb, s->pkt.in.port_class, CUBELET_CORE_POD, CUBELET_CORE_HOST,
				    CUBELET_CORE_OVERLAY, CUBELET_CORE_UPLINK);
	return cubelet_dropped(skb, &s->pkt, CUBELET_REASON_JUMP);
}

int cubelet_finished(struct __sk_buff *skb)
{
	struct cubelet_scratch *s = cubelet_scratch_get();
	struct cubelet_flow *f = NULL;
	int result;

	if (!s)
		return TC_ACT_SHOT;
	result = cubelet_finish(skb, s, &f);
	return f ? cubelet_send_on(skb, s, f) : result;
}
