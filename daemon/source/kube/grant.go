package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weftnet/weft/daemon/source"
)

// Elect runs lead whenever this daemon is the one of all that gives Services their load
// balancers' addresses, until ctx is done. When lead is called the Services are what they
// were when we were elected, or newer: what a former one wrote has been seen.
func (s *Source) Elect(ctx context.Context, lead func(context.Context)) error {
	s.elector.run(ctx, func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-s.serviceFeed.again():
			lead(ctx)
		}
	})
	return nil
}

// Grant writes the status of Services, and returns those that were written. It goes on past
// one that fails, but not when we are no longer elected. With each is told, by an event, what
// changed. A decision that is void, because the Service is another by now, is
// [source.ErrStale]: the state tells of it, or will.
func (s *Source) Grant(ctx context.Context, grants []source.Grant) (written []source.Grant, err error) {
	var errs []error
	for _, g := range grants {
		if ctx.Err() != nil || !s.elector.holds() {
			errs = append(errs, errNotElected)
			break
		}
		if err := s.grant(ctx, g); err != nil {
			errs = append(errs, fmt.Errorf("service %s/%s: %w", g.Service.Namespace, g.Service.Name, err))
			continue
		}
		written = append(written, g)
	}
	return written, errors.Join(errs...)
}

var errNotElected = errors.New("this daemon is not elected any more")

// grant writes the status of one Service, if it still is what was decided by: it is read
// anew, and written on condition of what was read.
func (s *Source) grant(ctx context.Context, g source.Grant) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, n := s.core, name{g.Service.Namespace, g.Service.Name}
	svc := &corev1.Service{}
	err := client.Get().Namespace(n.namespace).Resource("services").Name(n.name).MaxRetries(0).Do(ctx).Into(svc)
	if apierrors.IsNotFound(err) {
		return source.ErrStale
	} else if err != nil {
		return fmt.Errorf("get: %w", brief(err))
	}
	if now, err := source.FromService(svc); err != nil || !reflect.DeepEqual(now, g.Service) {
		return source.ErrStale
	}
	if !s.elector.holds() { // the answer may have taken long
		return errNotElected
	}
	r := client.Patch(types.MergePatchType).Namespace(n.namespace).Resource("services").Name(n.name).SubResource("status")
	err = sendJSON(ctx, r.Body(encode(statusPatch(svc, g))), nil)
	switch {
	case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
		return source.ErrStale
	case err != nil:
		return fmt.Errorf("patch status: %w", brief(err))
	}
	if e := s.eventOf(svc, g); e != nil {
		if err := sendJSON(ctx, client.Post().Namespace(n.namespace).Resource("events").SetHeader("Content-Type", "application/json").Body(encode(e)), nil); err != nil {
			s.opts.Log.Debug("tell of a load balancer's address", "svc", n, "err", err) // the condition says it, too
		}
	}
	return nil
}

// statusPatch is the merge patch of a Service's status, on condition that it is what was
// read. Lists are replaced by a merge patch, so others' conditions are in it, too.
func statusPatch(svc *corev1.Service, g source.Grant) any {
	vip := corev1.LoadBalancerIPModeVIP
	var ingress []corev1.LoadBalancerIngress // nil: the field goes
	for _, ip := range g.IPs {
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: ip.String(), IPMode: &vip})
	}
	if g.Condition.Reason == "" { // not ours any more: what stays is somebody else's, as it is
		ingress = slices.DeleteFunc(slices.Clone(svc.Status.LoadBalancer.Ingress), func(i corev1.LoadBalancerIngress) bool {
			ip, err := netip.ParseAddr(i.IP)
			return err == nil && !slices.Contains(g.IPs, ip.Unmap())
		})
	}
	isOurs := func(c metav1.Condition) bool { return c.Type == source.BalancerCondition }
	conditions := slices.DeleteFunc(slices.Clone(svc.Status.Conditions), isOurs)
	if g.Condition.Reason != "" {
		c := metav1.Condition{
			Type: source.BalancerCondition, Status: metav1.ConditionFalse, Reason: g.Condition.Reason, Message: messageOf(g),
			ObservedGeneration: svc.Generation, LastTransitionTime: metav1.Now(),
		}
		if g.Condition.True {
			c.Status = metav1.ConditionTrue
		}
		if i := slices.IndexFunc(svc.Status.Conditions, isOurs); i >= 0 && svc.Status.Conditions[i].Status == c.Status {
			c.LastTransitionTime = svc.Status.Conditions[i].LastTransitionTime
		}
		conditions = append(conditions, c)
	}
	return map[string]any{
		"metadata": map[string]any{"uid": svc.UID, "resourceVersion": svc.ResourceVersion},
		"status":   map[string]any{"loadBalancer": map[string]any{"ingress": ingress}, "conditions": conditions},
	}
}

// messageOf is what a condition says for people.
func messageOf(g source.Grant) string {
	if g.Condition.Reason == source.ReasonAllocated {
		return "it has " + joinIPs(g.IPs)
	}
	return g.Condition.Message
}

func joinIPs(ips []netip.Addr) string {
	var texts []string
	for _, ip := range ips {
		texts = append(texts, ip.String())
	}
	return strings.Join(texts, ", ")
}

// eventOf tells what changed for a Service; nil: nothing that its user need be told.
func (s *Source) eventOf(svc *corev1.Service, g source.Grant) any {
	var had []netip.Addr
	for _, l := range g.Service.LoadBalancerIPs {
		had = append(had, l.IP)
	}
	var before source.Condition
	if g.Service.Balancer != nil {
		before = g.Service.Balancer.Condition
	}
	kind, reason, text := corev1.EventTypeNormal, "LoadBalancerAddress", "load balancer's address: "+messageOf(g)
	switch {
	case g.Condition.Reason == "":
		text = "load balancer's address taken back: the Service is not Weft's any more"
	case !g.Condition.True:
		kind, reason = corev1.EventTypeWarning, "LoadBalancer"+g.Condition.Reason
		if before == g.Condition {
			return nil
		}
	case slices.Equal(had, g.IPs) && before == g.Condition:
		return nil
	}
	now := time.Now().UTC()
	return map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata": map[string]any{"namespace": svc.Namespace, "name": fmt.Sprintf("%s.%x", svc.Name, now.UnixNano())},
		"involvedObject": map[string]any{
			"kind": "Service", "apiVersion": "v1", "namespace": svc.Namespace, "name": svc.Name, "uid": svc.UID, "resourceVersion": svc.ResourceVersion,
		},
		"reason": reason, "message": text, "type": kind, "count": 1,
		"firstTimestamp": metav1.NewTime(now), "lastTimestamp": metav1.NewTime(now),
		"source":             map[string]string{"component": userAgent, "host": s.opts.Node},
		"reportingComponent": "weft.dev/weftd", "reportingInstance": s.opts.Node,
	}
}

// ownNamespace is the namespace of the pod that we are; without one, where Weft usually is.
func ownNamespace(o Options) string {
	if o.Kubeconfig == "" {
		if b, err := os.ReadFile(filepath.Join(o.serviceAccount, "namespace")); err == nil && len(b) > 0 {
			return strings.TrimSpace(string(b))
		}
	}
	return "kube-system"
}
