package kube

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weft/daemon/source"
)

// elsewhere is the UID that Pods of other nodes have here: it is none of an attachment of this.
const elsewhere = "elsewhere"

// readPod reads a Pod. Of other nodes' it keeps what policies ask for: not those without an
// address, and neither UID nor readiness, which would wake all nodes again and again. One of
// this node has the UID by which kubelet and runtime know it. It is called by one goroutine.
func (s *Source) readPod(o *corev1.Pod) (*source.Pod, error) {
	p, err := source.FromPod(o)
	if err != nil {
		return nil, err
	}
	if len(p.IPs) == 0 && !p.Finished && !p.HostNetwork {
		p.Announced = announcedIPs(o)
	}
	if p.Node != s.opts.Node {
		if len(p.IPs)+len(p.Announced) == 0 {
			return nil, nil
		}
		p.UID, p.Ready = elsewhere, true
	} else {
		p.UID = cmp.Or(o.Annotations[configAnnotation], p.UID)
	}
	p.Labels = s.labels.share(p.Labels)
	return p, nil
}

// announcedIPs is the addresses in a Pod's annotation; none, if one cannot be read.
func announcedIPs(o *corev1.Pod) []netip.Addr {
	text := announced(o)
	if text == "" {
		return nil
	}
	var out []netip.Addr
	for one := range strings.SplitSeq(text, ",") {
		ip, err := netip.ParseAddr(one)
		if err != nil || ip.Zone() != "" {
			return nil
		}
		out = append(out, ip.Unmap())
	}
	return slices.Clip(out)
}

// maxShared bounds how many sets of labels are remembered to be shared.
const maxShared = 1 << 14

// sharedLabels has pods with the same labels share one map: those of one ReplicaSet, say. A
// map of two labels takes more than the rest of a pod. It is not safe for concurrent use.
type sharedLabels map[string]map[string]string

// share returns a map that says the same. If every pod has its own labels, some of those
// that could be shared are not.
func (s *sharedLabels) share(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	keys := make([]string, 0, len(labels))
	size := 0
	for k, v := range labels {
		keys = append(keys, k)
		size += len(k) + len(v) + 2
	}
	slices.Sort(keys)
	text := make([]byte, 0, size)
	for _, k := range keys { // no label has a zero byte
		text = append(append(append(append(text, k...), 0), labels[k]...), 0)
	}
	if have, ok := (*s)[string(text)]; ok {
		return have
	}
	if *s == nil || len(*s) >= maxShared {
		*s = sharedLabels{}
	}
	(*s)[string(text)] = labels
	return labels
}
