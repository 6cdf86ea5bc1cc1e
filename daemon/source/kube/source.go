package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/weftnet/weft/daemon/source"
	"github.com/weftnet/weft/internal/api"
)

// What a Problem of this package is called (api.Problem.What), besides those of package
// source for what an object lacks.
const (
	ProblemAPI    = "source-api"    // no API server answers, or not as it should
	ProblemAccess = "source-access" // the API refuses us
	ProblemObject = "source-object" // an object of the API cannot be read
)

// Options of [Open].
type Options struct {
	// Node is our own name: that of the Node object whose Pods are watched.
	Node string
	// Kubeconfig has API server and credentials. Empty: they are the pod's own (its
	// service account), and where the API servers are says Servers or Kubelet.
	Kubeconfig string
	// Servers are API servers; some may be dead.
	Servers []Server
	// Kubelet is the kubeconfig of this node's kubelet. Of it only the cluster is used.
	Kubelet string
	// StateFile keeps who the API servers were last. Empty: nothing does.
	StateFile string
	// Services says whether EndpointSlices are wanted.
	Services bool
	Log      *slog.Logger // default: discard

	serviceAccount string        // for tests
	absentEvery    time.Duration // likewise: how often a kind is asked for that there is not
	lease          leaseTimes    // likewise
}

func (o *Options) fill() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.serviceAccount == "" {
		o.serviceAccount = serviceAccount
	}
	o.absentEvery = cmp.Or(o.absentEvery, 10*time.Second)
	o.lease = cmp.Or(o.lease, usualLease)
}

// Preflight says what is missing before any API server can be asked, and what to do.
func Preflight(o Options) error {
	o.fill()
	a, err := readAccess(o)
	if err != nil {
		return err
	}
	learnt, err := readLearnt(o.StateFile)
	if len(a.servers) == 0 && len(learnt) == 0 {
		return errors.Join(a.missing, err)
	}
	return nil
}

// Source is the Kubernetes API.
type Source struct {
	opts      Options
	conn      *connector
	announcer *announcer
	reporter  *reporter
	elector   *elector
	core      rest.Interface
	feeds     []*feed
	changed   chan struct{}
	learnt    chan struct{} // of size 1: own may say something new

	labels      sharedLabels
	names       sharedNames // of the slices' feed
	podFeed     *feed
	serviceFeed *feed

	mu         sync.Mutex
	nodes      *table[source.Node]
	pods       *table[source.Pod] // of this node; those of all once there was a policy
	namespaces *table[source.Namespace]
	policies   *table[source.NetworkPolicy]
	cluster    *table[source.ClusterPolicy]
	services   *table[source.Service]
	slices     *table[source.EndpointSlice]
	state      source.State
	stale      bool
	policed    bool // there was a policy
	allPods    bool // all pods of all nodes have been listed
	sure       bool // State.PoliciesComplete
	// own is the API servers, by their slices; unkept, why they are not in the state file.
	own    map[name][]Server
	unkept []api.Problem
}

// Open makes the source. Nothing is read of the API before [Source.Run], and no API
// server need be there.
func Open(o Options) (*Source, error) {
	if o.Node == "" {
		return nil, errors.New("open source: no node name")
	}
	o.fill()
	conn, err := newConnector(o)
	if err != nil {
		o.Log.Warn("open source", "err", err)
	}
	to, err := newClients(conn)
	if err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	s := &Source{
		opts: o, conn: conn, announcer: newAnnouncer(to.core, o.Log), changed: make(chan struct{}, 1), learnt: make(chan struct{}, 1),
		nodes:      newTable(source.ProblemNode, "node", nameOfNode, func(n *source.Node) string { return n.Problem }),
		pods:       newTable(source.ProblemNode, "pod", nameOfPod, func(*source.Pod) string { return "" }),
		namespaces: newTable(source.ProblemPolicy, "namespace", nameOfNamespace, func(*source.Namespace) string { return "" }),
		policies:   newTable(source.ProblemPolicy, "network policy", nameOfPolicy, func(p *source.NetworkPolicy) string { return p.Problem }),
		cluster:    newTable(source.ProblemPolicy, "cluster network policy", nameOfCluster, func(p *source.ClusterPolicy) string { return p.Problem }),
		services:   newTable(source.ProblemService, "service", nameOfService, func(v *source.Service) string { return v.Problem }),
		slices:     newTable(source.ProblemService, "endpoint slice", nameOfSlice, func(e *source.EndpointSlice) string { return e.Problem }),
		own:        map[name][]Server{},
	}
	s.nodes.lost = func(before, now *source.Node) string {
		if before.UID == now.UID && before.Problem == "" && now.Problem != "" { // else it is another node
			return now.Problem + " any more; what it had stays; to remove a node, remove its object"
		}
		return ""
	}
	s.core = to.core
	namespace := ownNamespace(o)
	s.elector = &elector{
		client: to.core, path: "/apis/coordination.k8s.io/v1/namespaces/" + namespace + "/leases", namespace: namespace,
		identity: o.Node, rank: s.rank, ready: s.ready, times: o.lease, log: o.Log,
	}
	s.reporter = newReporter(to.policy, o.Log, s.rank)
	s.addFeeds(to)
	return s, nil
}

// addFeeds says what is watched.
func (s *Source) addFeeds(to clients) {
	add := func(client rest.Interface, resource string, list func() runtime.Object, to sink) *feed {
		f := &feed{client: client, resource: resource, list: list, sink: to, log: s.opts.Log}
		s.feeds = append(s.feeds, f)
		return f
	}
	add(to.core, "nodes", func() runtime.Object { return &corev1.NodeList{} },
		&objects[*corev1.Node, source.Node]{s: s, table: s.nodes, read: source.FromNode})
	s.podFeed = add(to.core, "pods", func() runtime.Object { return &corev1.PodList{} },
		&objects[*corev1.Pod, source.Pod]{
			s: s, table: s.pods, read: s.readPod,
			saw: s.seePod, lost: s.announcer.unsee, all: s.seeAllPods, quiet: s.foreignAtFirst,
		})
	s.podFeed.selector = [][2]string{{"fieldSelector", "spec.nodeName=" + s.opts.Node}}
	add(to.core, "namespaces", func() runtime.Object { return &corev1.NamespaceList{} },
		&objects[*corev1.Namespace, source.Namespace]{s: s, table: s.namespaces, read: source.FromNamespace})
	add(to.networking, "networkpolicies", func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
		&objects[*networkingv1.NetworkPolicy, source.NetworkPolicy]{
			s: s, table: s.policies, read: source.FromNetworkPolicy,
			saw: func(name, *networkingv1.NetworkPolicy) { s.police() },
		})
	add(to.policy, "clusternetworkpolicies", func() runtime.Object { return &clusterPolicyList{} },
		&objects[*clusterPolicy, source.ClusterPolicy]{
			s: s, table: s.cluster, read: readClusterPolicy,
			saw: s.seeClusterPolicy, lost: s.reporter.unsee,
		}).optional = s.opts.absentEvery
	s.serviceFeed = add(to.core, "services", func() runtime.Object { return &corev1.ServiceList{} },
		&objects[*corev1.Service, source.Service]{s: s, table: s.services, read: source.FromService})
	slices := add(to.discovery, "endpointslices", func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
		&objects[*discoveryv1.EndpointSlice, source.EndpointSlice]{
			s: s, table: s.slices, read: s.readSlice,
			saw: s.learn, lost: s.unlearn, all: s.learnAll,
		})
	if !s.opts.Services {
		slices.namespace = "default"
		slices.selector = [][2]string{{"labelSelector", "kubernetes.io/service-name=kubernetes"}}
	}
}

// Run reads the API until ctx is done, which is no error.
func (s *Source) Run(ctx context.Context) error {
	var group sync.WaitGroup
	for _, f := range s.feeds {
		group.Go(func() { f.run(ctx) })
	}
	group.Go(func() { s.announcer.run(ctx) })
	group.Go(func() { s.reporter.run(ctx) })
	group.Go(func() { s.keepLearnt(ctx) })
	group.Wait()
	s.conn.close()
	return nil
}

// Snapshot is the state as of the last event.
func (s *Source) Snapshot() source.State {
	s.mu.Lock()
	if s.stale {
		s.stale = false
		s.state = source.State{
			Nodes: s.nodes.current(), Pods: s.pods.current(), Namespaces: s.namespaces.current(),
			Services: s.services.current(), Slices: s.slices.objects(),
			Policies: s.policies.current(), ClusterPolicies: s.cluster.current(),
			Complete: s.complete(), PoliciesComplete: s.sure,
		}
	}
	state := s.state
	problems := slices.Concat(s.nodes.problems(), s.pods.problems(), s.namespaces.problems(), s.policies.problems(),
		s.cluster.problems(), s.services.problems(), s.slices.problems(), s.unkept)
	s.mu.Unlock()
	problems = append(problems, s.conn.problem()...)
	for _, f := range s.feeds {
		problems = append(problems, f.problem()...)
	}
	problems = append(problems, s.elector.problem()...)
	state.Problems = append(problems, s.announcer.problem()...)
	return state
}

// Unpoliced says that the source has told all that policies need, and that there are none.
func (s *Source) Unpoliced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sure && len(s.policies.current())+len(s.cluster.current()) == 0
}

// Changed receives after the state has changed; many changes may come as one. Until the
// state is complete there is nothing to tell.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// WritePod has the annotation of a Pod say what addresses an attachment of this node has.
// It does not wait: that is done beside it, again until it is well. When an attachment is
// gone there is nothing to write, as the Pod goes, too.
func (s *Source) WritePod(e api.Endpoint, gone bool) error {
	s.announcer.put(e, gone)
	return nil
}

// SyncPods says which attachments live; for the start. Only annotations that say
// otherwise are written. What WritePod was told before is newer than live.
func (s *Source) SyncPods(live []api.Endpoint) error {
	s.announcer.sync(live)
	return nil
}

func (s *Source) complete() bool {
	return s.nodes.synced && s.pods.synced && s.services.synced && (!s.opts.Services || s.slices.synced)
}

// ready says whether the state is complete.
func (s *Source) ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.complete()
}

// change notes that the state has changed. s.mu is held.
func (s *Source) change() {
	s.stale = true
	s.sure = s.sure || s.nodes.synced && s.pods.synced && s.namespaces.synced && s.policies.synced && s.cluster.synced &&
		(s.allPods || !s.policed)
	if !s.complete() {
		return
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// police takes up that there are policies: from now on, or once those of this node have been
// listed, the pods of all nodes are watched. Policies count at once. Until the pods have been
// listed, which is not waited for but at the start, what they say of pods as peers is not
// complete.
func (s *Source) police() {
	if s.policed {
		return
	}
	s.policed = true
	if s.pods.synced {
		s.podFeed.selectAll()
	}
}

func (s *Source) seeClusterPolicy(n name, p *clusterPolicy) {
	s.police()
	s.reporter.see(p, s.cluster.get(n))
}

// rank is how many nodes are before ours by name.
func (s *Source) rank() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := slices.BinarySearchFunc(s.nodes.current(), s.opts.Node, func(n *source.Node, own string) int { return cmp.Compare(n.Name, own) })
	return i
}

func (s *Source) seePod(n name, p *corev1.Pod) {
	if p.Spec.NodeName == s.opts.Node {
		s.announcer.see(p)
	} else {
		s.announcer.unsee(n)
	}
}

// foreignAtFirst says of other nodes' pods, until all have been listed.
func (s *Source) foreignAtFirst(p *corev1.Pod) bool {
	return !s.allPods && p.Spec.NodeName != s.opts.Node
}

// seeAllPods takes up the end of a listing.
func (s *Source) seeAllPods() {
	s.announcer.all(func(n name) bool { return s.pods.get(n) != nil })
	switch {
	case s.allPods || !s.policed:
	case s.podFeed.using != nil: // there may be very many: this node's need not wait for them
		s.podFeed.selectAll()
	default:
		s.allPods = true
		s.change()
	}
}

// learn takes up a slice, if it is the API servers' own.
func (s *Source) learn(n name, e *discoveryv1.EndpointSlice) {
	if !isOwn(e) {
		s.unlearn(n)
		return
	}
	s.own[n] = serversIn(e)
	if s.slices.synced {
		s.tellLearnt()
	}
}

func (s *Source) unlearn(n name) {
	if _, was := s.own[n]; was {
		delete(s.own, n)
		s.tellLearnt()
	}
}

// learnAll takes up that there are no other slices.
func (s *Source) learnAll() {
	maps.DeleteFunc(s.own, func(n name, _ []Server) bool { return s.slices.get(n) == nil })
	s.tellLearnt()
}

func (s *Source) tellLearnt() {
	select {
	case s.learnt <- struct{}{}:
	default:
	}
}

// keepLearnt keeps who the API servers are, until ctx is done.
func (s *Source) keepLearnt(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.learnt:
		}
		s.mu.Lock()
		var servers []Server
		for _, some := range s.own {
			servers = append(servers, some...)
		}
		s.mu.Unlock()
		slices.SortFunc(servers, func(a, b Server) int { return strings.Compare(a.Address, b.Address) })
		err := s.conn.learn(slices.Compact(servers))
		s.mu.Lock()
		if s.unkept = nil; err != nil {
			s.unkept = []api.Problem{{What: ProblemAPI, Text: err.Error(), Since: time.Now()}}
		}
		s.mu.Unlock()
	}
}
