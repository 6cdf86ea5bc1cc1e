package daemon

import (
	"context"
	"time"

	"github.com/weftnet/weft/daemon/endpoint"
	"github.com/weftnet/weft/internal/api"
)

// admitWait is how long ADD waits for the source to tell what applies to the pod, before the
// pod starts closed.
const admitWait = 5 * time.Second

var _ endpoint.Policies = (*policies)(nil)

// Admit implements [endpoint.Policies]. Where there are no policies it costs the same however
// many pods there are. Else it waits until the source knows the pod, as long as
// admitWait; after that the pod is closed until it is known.
func (p *policies) Admit(ctx context.Context, pod endpoint.Pod) {
	p.pods.renew(pod)
	ctx, cancel := context.WithTimeout(ctx, admitWait)
	defer cancel()
	for {
		done, news := p.admit(pod, ctx.Err() != nil)
		if done {
			return
		}
		select {
		case <-news:
		case <-ctx.Done():
		}
	}
}

// admit says whether all is done that can be for a new pod, without waiting; in the end it
// is. Otherwise news is closed when there is more to know.
func (p *policies) admit(pod endpoint.Pod, end bool) (done bool, news <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle && p.unpoliced() {
		p.pods.set(pod.Ref, endpoint.Isolation{})
		return true, nil
	}
	state := p.source()
	if !state.PoliciesComplete {
		// A source that has been silent from the start will not speak for ADD's sake.
		if !end && (p.complete || time.Since(p.since) < recallAfter) {
			return false, p.news
		}
		if p.last != nil && p.last.spares(namespaceOf(pod)) && spares(state, namespaceOf(pod)) {
			p.pods.set(pod.Ref, endpoint.Isolation{})
		} else {
			p.pods.note(pod.Ref, false)
			p.report()
		}
		return true, nil
	}
	if _, err := p.take(state); err != nil {
		p.log.Warn("policies are not all in force, will retry", "err", err)
		p.wake()
	}
	e, ok := p.pods.get(pod.Ref)
	if end && ok && e.unknown {
		p.log.Warn("pod starts closed, the source does not know it", "pod", podText(pod))
	}
	return end || !ok || !e.unknown, p.news
}

// Restore implements [endpoint.Policies].
func (p *policies) Restore(pod endpoint.Pod) {
	for _, a := range pod.Addrs {
		if i, ok := p.held(a); ok {
			p.pods.add(pod, i, true)
			return
		}
	}
	p.pods.add(pod, endpoint.Closed, false)
}

// Isolation implements [endpoint.Policies].
func (p *policies) Isolation(ref api.Ref) endpoint.Isolation {
	e, ok := p.pods.get(ref)
	if !ok {
		return endpoint.Closed
	}
	return e.isolation
}

// Forget implements [endpoint.Policies]. What the pod had in the kernel goes soon after.
func (p *policies) Forget(ref api.Ref) {
	if p.pods.drop(ref) {
		p.wake()
	}
}

// wake asks for a look at what is to be done, though the source tells nothing new.
func (p *policies) wake() { offerLatest(p.due, struct{}{}) }
