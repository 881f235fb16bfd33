/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sends what goes by a flow that is mirrored: its copies first. A program of its own, composed
 * while some cube mirrors, so that others are neither longer nor harder to verify for it.
 */

int cubelet_mirrors(struct __sk_buff *skb)
{
	struct cubelet_scratch *s = cubelet_scratch_get();
	struct cubelet_flow *f;

	if (!s)
		return TC_ACT_SHOT;
	f = cubelet_find(&s->pkt.hdr.tuple);
	if (!f)
		return cubelet_dropped(skb, &s->pkt, CUBELET_REASON_FLOW_TABLE);
	s->pkt.flags = f->flags & CUBELET_FLOW_ROUTED ? CUBELET_ROUTED : 0;
	return cubelet_send_fit(skb, s, f, 1);
}
