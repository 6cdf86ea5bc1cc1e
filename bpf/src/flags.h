/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What becomes of a flow, as flags of its rows in `brief`. They change under the locks of the sets,
 * as its rows may move. Who cannot have a lock has the packet sent again: what ends a flow, too,
 * comes again, an RST with what the other end sends next.
 */
#pragma once
#include "brief.h"

static __always_inline __u8 use_of(const struct flow *f)
{
	if (is_kept(f))
		return USE_LIVES;
	if (f->flags & FLOW_CLOSED && !(f->flags & FLOW_PASSED)) /* of which one end only is seen */
		return USE_ENDED;
	return USE_NEW;
}

/* Changes the flags of a row; those that it had, without which end it was. */
static __always_inline int put_flags(int place, __u32 more, __u32 less)
{
	struct brief_set *set = set_at(place);
	struct flow *f;
	__u32 had;

	if (!set)
		return -NOT_OURS;
	place &= BRIEF_WAYS - 1;
	f = &set->slot[place].row;
	had = f->flags;
	f->flags = (had | more) & ~less;
	set->use[place] = use_of(f);
	return had & 0xff;
}

/* Changes the flags of a flow's row in `brief`, at the place of tuple t; u is that of the other
 * row. The flags that it had, or why not, negated: NOT_OURS, it is not there; DROP_FLOWS_BUSY.
 */
__noinline int flag_brief(int place, const struct tuple *t, const struct tuple *u, __u32 more,
			  __u32 less)
{
	int had = -NOT_OURS;

	if (!t || !u || place < 0)
		return -NOT_OURS;
	if (!lock_at(place))
		return -DROP_FLOWS_BUSY;
	if (likely(holds(place, t, u)))
		had = put_flags(place, more, less);
	unlock_at(place);
	return had;
}

/* Sets flags of both rows of a flow in `brief`, which are here and there, or of none: those up to
 * 0xff of the first, and from bit 8 on those for both. When both have FLOW_FIN, the flow has ended.
 * The flags that the first one had, or why not, negated: NOT_OURS, they are not both there;
 * DROP_FLOWS_BUSY.
 */
__noinline int flag_both(int here, int there, const struct tuple *t, const struct tuple *u,
			 __u32 flags)
{
	const int first = here < there ? here : there, second = here ^ there ^ first;
	__u32 both = flags >> 8;
	int had = -NOT_OURS;

	if (!t || !u || first < 0)
		return -NOT_OURS;
	if (!lock_at(first))
		return -DROP_FLOWS_BUSY;
	if ((first ^ second) >= BRIEF_WAYS && !lock_at(second)) {
		unlock_at(first);
		return -DROP_FLOWS_BUSY;
	}
	if (likely(holds(here, t, u) && holds(there, u, t))) {
		if (put_flags(there, both, 0) & flags & FLOW_FIN) {
			both |= FLOW_CLOSED;
			put_flags(there, both, 0);
		}
		had = put_flags(here, (flags & 0xff) | both, 0);
	}
	if ((first ^ second) >= BRIEF_WAYS)
		unlock_at(second);
	unlock_at(first);
	return had;
}
