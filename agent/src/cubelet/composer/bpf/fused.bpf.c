/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The judge, fused: the cubes of every stack inlined into one program. Which of
 * them run is decided by the class a flow entered and leaves by, so one copy of
 * a cube serves all ports.
 *
 * The composer defines CUBELET_INWARD, CUBELET_CORE_INWARD, CUBELET_CORE_OUTWARD
 * and CUBELET_OUTWARD as lists of STAGE(number, function, classes).
 */
#define CUBELET_STAGE_STACK(number, function, classes, class)          \
	if (verdict == CUBELET_NEXT && ((classes) & (1 << (class)))) { \
		pkt->stage = (number);                                 \
		verdict = function(skb, pkt);                          \
	}
#define CUBELET_STAGE_INWARD(number, function, classes) \
	CUBELET_STAGE_STACK(number, function, classes, pkt->in.port_class)
#define CUBELET_STAGE_OUTWARD(number, function, classes) \
	CUBELET_STAGE_STACK(number, function, classes, pkt->out.port_class)

/* Runs the cubes; the verdict is also left in pkt->verdict. */
CUBELET_INLINE int cubelet_judge(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	int stacks = pkt->mode != CUBELET_LINK && pkt->mode != CUBELET_FIND_ORIGIN;
	int verdict = CUBELET_NEXT;

	if (stacks) {
		CUBELET_INWARD(CUBELET_STAGE_INWARD)
	}
	CUBELET_CORE_INWARD(CUBELET_STAGE_INWARD)
	if (verdict != CUBELET_FORWARD)
		return verdict;
	verdict = CUBELET_NEXT;
	CUBELET_CORE_OUTWARD(CUBELET_STAGE_OUTWARD)
	if (stacks) {
		CUBELET_OUTWARD(CUBELET_STAGE_OUTWARD)
	}
	return verdict == CUBELET_NEXT ? CUBELET_FORWARD : verdict;
}

int cubelet_slow(struct __sk_buff *skb)
{
	struct cubelet_scratch *s = cubelet_scratch_get();
	struct cubelet_flow *f = NULL;
	int result;

	if (!s)
		return TC_ACT_SHOT;
	if (s->pkt.mode == CUBELET_ARRIVED) {
		int tracked = cubelet_track(skb, s, &f);

		if (tracked != CUBELET_TRACKED_JUDGE)
			return cubelet_settled(skb, s, tracked, f);
	}
	f = NULL; /* what was tracked is what is judged again, not yet what may pass */
	s->pkt.verdict = cubelet_judge(skb, &s->pkt);
	result = cubelet_finish(skb, s, &f);
	return f ? cubelet_send_on(skb, s, f) : result;
}
