package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

const (
	// addressesAnnotation has a pod's addresses before the kubelet says them in its status:
	// <UID of the Pod>/<address>,<address>. A copy of a Pod has its annotations, too, and
	// by its UID does not pass for the addresses' owner.
	addressesAnnotation = "weft.dev/pod-ips"
	// configAnnotation has, on the Pod that stands for one of the kubelet's own files, the
	// UID by which kubelet and runtime know it (k8s.io/kubernetes/pkg/kubelet/types).
	configAnnotation = "kubernetes.io/config.hash"
	// patience is how long an announcement that somebody undid is left alone.
	patience = 10 * time.Second
)

// announcer writes the addresses of this node's pods into the annotations of their Pods,
// once for each, in the order in which they came. It is safe for concurrent use.
type announcer struct {
	client rest.Interface
	log    *slog.Logger
	more   chan struct{} // of size 1: there may be something to do

	mu      sync.Mutex
	live    map[api.Ref]api.Endpoint
	gone    map[api.Ref]bool // until settled: what was told is gone, or not
	settled bool             // all that live have been told
	pods    map[name]podNote // those of this node, as the API has them
	wanted  map[name]*announcement
	err     error // of the last patch
	since   time.Time
}

// podNote is what is remembered of a Pod.
type podNote struct {
	uid, config string // config: see configAnnotation
	addresses   string
	version     uint64 // 0: not a number
}

func noteOf(p *corev1.Pod) podNote {
	version, err := strconv.ParseUint(p.ResourceVersion, 10, 64)
	if err != nil {
		version = 0
	}
	return podNote{string(p.UID), p.Annotations[configAnnotation], announced(p), version}
}

// announced are the addresses in a Pod's annotation; none, if it is about another Pod.
func announced(p *corev1.Pod) string {
	addresses, ok := strings.CutPrefix(p.Annotations[addressesAnnotation], string(p.UID)+"/")
	if !ok {
		return ""
	}
	return addresses
}

// is says whether the runtime knows the Pod by this UID.
func (n podNote) is(uid string) bool { return uid == n.uid || uid == n.config }

// announcement is what the annotation of one Pod should be.
type announcement struct {
	uid       string // as the runtime named it
	addresses string
	since     time.Time // the attachment's
	due       bool
	after     time.Time     // not before
	wait      time.Duration // after the next failure
	version   uint64        // of the Pod when it was patched
}

func newAnnouncer(client rest.Interface, log *slog.Logger) *announcer {
	return &announcer{
		client: client, log: log, more: make(chan struct{}, 1),
		live: map[api.Ref]api.Endpoint{}, gone: map[api.Ref]bool{},
		pods: map[name]podNote{}, wanted: map[name]*announcement{},
	}
}

// put takes up that an attachment came or went. What came is announced at once.
func (a *announcer) put(e api.Endpoint, gone bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.settled {
		a.gone[e.Ref] = gone
	}
	if gone {
		delete(a.live, e.Ref)
	} else {
		a.live[e.Ref] = e
	}
	n := name{e.PodNamespace, e.PodName}
	a.want(n)
	if w := a.wanted[n]; w != nil && !gone {
		w.due = true
		a.judge(n)
	}
	a.wake()
}

// sync takes up all that live. What put was told before is newer. Those whose Pods are
// not known yet wait for them.
func (a *announcer) sync(live []api.Endpoint) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := map[api.Ref]api.Endpoint{}
	for _, e := range live {
		if !a.gone[e.Ref] {
			all[e.Ref] = e
		}
	}
	if !a.settled {
		maps.Copy(all, a.live)
	}
	a.live, a.settled, a.gone = all, true, map[api.Ref]bool{}
	for n := range a.wanted {
		a.want(n)
	}
	for _, e := range a.live {
		a.want(name{e.PodNamespace, e.PodName})
	}
	for n := range a.wanted {
		a.judge(n)
	}
	a.wake()
}

// want works out what is wanted of one Pod: the addresses of its newest sandbox, those of
// eth0 first. Nothing, if the runtime did not name its UID.
func (a *announcer) want(n name) {
	var newest api.Endpoint
	for _, e := range a.live {
		if e.PodNamespace == n.namespace && e.PodName == n.name && !e.Since.Before(newest.Since) {
			newest = e
		}
	}
	if newest.PodUID == "" || n.name == "" {
		delete(a.wanted, n)
		return
	}
	var of []api.Endpoint
	for _, e := range a.live {
		if e.ContainerID == newest.ContainerID {
			of = append(of, e)
		}
	}
	slices.SortFunc(of, func(x, y api.Endpoint) int {
		return compareInterfaces(x.IfName, y.IfName)
	})
	var texts []string
	for _, e := range of {
		for _, ip := range e.IPs {
			texts = append(texts, ip.String())
		}
	}
	w := &announcement{uid: newest.PodUID, addresses: strings.Join(texts, ","), since: newest.Since}
	if was := a.wanted[n]; was == nil || was.uid != w.uid || was.addresses != w.addresses {
		a.wanted[n] = w
	}
}

// compareInterfaces puts eth0 first.
func compareInterfaces(a, b string) int {
	if (a == "eth0") != (b == "eth0") {
		if a == "eth0" {
			return -1
		}
		return 1
	}
	return strings.Compare(a, b)
}

// judge decides by its Pod, if that is known, whether an announcement is due.
func (a *announcer) judge(n name) {
	w := a.wanted[n]
	pod, known := a.pods[n]
	switch {
	case w == nil || !known:
	case !pod.is(w.uid) || pod.addresses == w.addresses:
		w.due = false
	default: // the Pod may be older than the patch
		w.due = w.version == 0 || pod.version > w.version
	}
}

// see takes up a Pod of this node.
func (a *announcer) see(p *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := name{p.Namespace, p.Name}
	a.pods[n] = noteOf(p)
	a.judge(n)
	a.wake()
}

// unsee takes up that a Pod is gone, and with it what was to be written.
func (a *announcer) unsee(n name) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forget(n)
}

func (a *announcer) forget(n name) {
	delete(a.pods, n)
	if w := a.wanted[n]; w != nil {
		w.due = false
	}
}

// all says that there are no other Pods than those that there says are.
func (a *announcer) all(there func(name) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for n := range a.pods {
		if !there(n) {
			a.forget(n)
		}
	}
}

func (a *announcer) wake() {
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// next returns the announcement that came first of those that may be made now, and how
// long to wait if there is none: negative, until something happens.
func (a *announcer) next(now time.Time) (n name, w *announcement, wait time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	wait = -1
	for k, x := range a.wanted {
		switch {
		case !x.due:
		case x.after.After(now):
			if left := x.after.Sub(now); wait < 0 || left < wait {
				wait = left
			}
		case w == nil || x.since.Before(w.since):
			n, w = k, x
		}
	}
	return n, w, wait
}

// run announces until ctx is done.
func (a *announcer) run(ctx context.Context) {
	for ctx.Err() == nil {
		n, w, wait := a.next(time.Now())
		if w != nil {
			a.announce(ctx, n, w)
			continue
		}
		var later <-chan time.Time
		if wait >= 0 {
			later = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-a.more:
		case <-later:
		}
	}
}

// announce patches one Pod.
func (a *announcer) announce(ctx context.Context, n name, w *announcement) {
	a.mu.Lock()
	uid := w.uid
	if pod, ok := a.pods[n]; ok && pod.is(uid) {
		uid = pod.uid
	}
	a.mu.Unlock()
	pod, err := a.patch(ctx, n, uid, w.addresses)
	if apierrors.IsConflict(err) { // another Pod of that name, or a change at the same time
		pod, err = a.patchFound(ctx, n, w, uid, err)
	}
	if ctx.Err() != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if apierrors.IsNotFound(err) { // the Pod is gone; if it comes yet, we are told
		w.due, err = false, nil
	} else if err == nil {
		w.due, w.wait, w.after = false, 0, time.Now().Add(patience)
		w.version = max(1, noteOf(pod).version)
		a.judge(n) // the Pod may have changed again before the answer came
	} else {
		w.wait = min(max(2*w.wait, retryFirst), 3*retryMost)
		w.after = time.Now().Add(w.wait/2 + rand.N(w.wait))
		if a.err == nil {
			a.since = time.Now()
			a.log.Warn("announce addresses, will retry", "pod", n, "err", err)
		}
	}
	a.err = err
}

// patchFound looks which Pod there is, and patches it if it is the one that is meant.
func (a *announcer) patchFound(ctx context.Context, n name, w *announcement, tried string, conflict error) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	err := a.client.Get().Namespace(n.namespace).Resource("pods").Name(n.name).MaxRetries(0).Do(ctx).Into(pod)
	found := noteOf(pod)
	switch {
	case err != nil:
		return nil, err
	case !found.is(w.uid):
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), n.String())
	case found.uid == tried:
		return nil, conflict
	}
	return a.patch(ctx, n, found.uid, w.addresses)
}

// patch writes the annotation of the Pod that has this UID; a conflict if another has the
// name.
func (a *announcer) patch(ctx context.Context, n name, uid, addresses string) (*corev1.Pod, error) {
	type meta struct {
		UID         string            `json:"uid"`
		Annotations map[string]string `json:"annotations"`
	}
	body, err := json.Marshal(map[string]meta{"metadata": {uid, map[string]string{addressesAnnotation: uid + "/" + addresses}}})
	if err != nil {
		return nil, fmt.Errorf("encode patch: %w", err)
	}
	pod := &corev1.Pod{}
	err = a.client.Patch(types.MergePatchType).Namespace(n.namespace).Resource("pods").Name(n.name).
		Body(body).MaxRetries(0).Do(ctx).Into(pod)
	if err != nil {
		return nil, fmt.Errorf("patch pod %s: %w", n, brief(err))
	}
	return pod, nil
}

// problem is why addresses are not announced, if so.
func (a *announcer) problem() []api.Problem {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		return nil
	}
	due := 0
	for _, w := range a.wanted {
		if w.due {
			due++
		}
	}
	if due == 0 {
		return nil
	}
	return []api.Problem{{
		What: source.ProblemStatus, Since: a.since,
		Text: fmt.Sprintf("addresses of %d of our pods are not announced to the other nodes: %v", due, a.err),
	}}
}
