package endpoint

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/weftnet/weft/internal/api"
	"github.com/weftnet/weft/ipam"
)

// Check compares an attachment with all that Add made. The error names every thing
// of ours that is missing or changed; what later plugins added is no matter.
func (m *Manager) Check(ctx context.Context, a api.Attach) error {
	owner := ipam.Owner{ContainerID: a.ContainerID, IfName: a.IfName}
	prev, err := parsePrevious(a.PrevResult)
	if err != nil {
		return err
	}
	unlock, err := m.locks.lock(ctx, owner)
	if err != nil {
		return fail(api.CodeTryAgain, "attachment is busy", err)
	}
	defer unlock()
	lease, ok := m.IPAM.Get(owner)
	att := m.get(owner)
	if !ok || att == nil || a.Network != "" && lease.Network != a.Network {
		return missing(findings{fmt.Sprintf("address reservation of %s/%s is missing", owner.ContainerID, owner.IfName)})
	}
	pod, err := openNetns(a.Netns)
	if errors.Is(err, errNoNetns) {
		return missing(findings{"network namespace " + a.Netns + " is missing"})
	} else if err != nil {
		return fail(api.CodeIO, "open CNI_NETNS", err)
	}
	defer pod.close()
	found, err := m.examine(att, pod, m.Net())
	if err != nil {
		return fail(api.CodeIO, "check container", err)
	}
	if pod.cookie != att.rec.Cookie {
		found.addf("%s is not the network namespace that was attached", a.Netns)
	}
	found.findings = append(found.findings, checkResult(prev, owner, lease)...)
	if len(found.findings) > 0 {
		return missing(found.findings)
	}
	return nil
}

// missing is the error that names what is.
func missing(f findings) error {
	return &api.Error{Code: api.CodeMissing, Msg: "container is not as it was attached", Details: strings.Join(f, "; ")}
}

// examine inspects all of an attachment, rows included.
func (m *Manager) examine(a *attachment, pod *netns, offer Net) (look, error) {
	w, err := a.wiring(offer)
	if err != nil {
		return look{findings: findings{err.Error()}}, nil
	}
	host, err := dial()
	if err != nil {
		return look{}, err
	}
	defer host.close()
	found, err := m.inspect(host, pod, w)
	if err != nil {
		return look{}, err
	}
	if found.host.index != 0 {
		// What the rows must be follows from the device as it is now; but from the queueing
		// disciplines as we have last seen them: a later plugin of the chain may have made
		// one a moment ago, and a runtime may ask before we hear of it.
		return found, m.inspectRows(a, &attachment{host: found.host, stack: a.stack}, w, &found)
	}
	return found, nil
}

// checkResult compares what the runtime was told with the reservation: it must know
// every address of ours. More addresses may be of other plugins of the chain.
func checkResult(prev *types100.Result, o ipam.Owner, l ipam.Lease) findings {
	if prev == nil {
		return nil
	}
	var f findings
	told := map[netip.Addr]bool{}
	for _, ip := range prev.IPs {
		if ip.Interface == nil || *ip.Interface < 0 || *ip.Interface >= len(prev.Interfaces) {
			continue
		}
		if i := prev.Interfaces[*ip.Interface]; i.Name != o.IfName || i.Sandbox == "" {
			continue
		}
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			told[a.Unmap()] = true
		}
	}
	for _, a := range l.Addrs {
		if len(told) > 0 && !told[a] {
			f.addf("reserved address %s is not in prevResult", a)
		}
	}
	return f
}

// Status says whether Add can be served: nil, or an *api.Error of code 50, or 51 if
// besides the existing pods may be limited. It asks nothing of the kernel.
func (m *Manager) Status() error {
	if err := m.Net().Ready; err != nil {
		if len(m.all()) > 0 {
			return fail(api.CodeLimited, "node cannot attach pods, existing ones may be limited", err)
		}
		return fail(api.CodeNotAvailable, "node cannot attach pods", err)
	}
	for _, p := range m.IPAM.Pools() {
		if p.Size != nil && big.NewInt(int64(p.Used)).Cmp(p.Size) >= 0 {
			return fail(api.CodeNotAvailable, fmt.Sprintf("address pool %s is used up", p.Prefix), nil)
		}
	}
	return nil
}
