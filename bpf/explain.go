package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// explainProgram is in no link: [Datapath.Explain] runs it.
const explainProgram = "explain"

// Question is the first packet of a flow. Addresses are unmapped and of one family; the
// port is 0 in protocols that have none.
type Question struct {
	From     netip.Addr
	To       netip.AddrPort
	Protocol Protocol
}

// Answer is what would become of it.
type Answer struct {
	// Service: To is a place of a Service. Its Backend is one that the packet may get,
	// as there may be several; it is not valid if there is none, or if the address
	// itself answers (an echo).
	Service bool
	Backend netip.AddrPort
	// Netfilter: another program serves this Service, by the node's netfilter: nobody here
	// knows the backend, and neither end has been judged.
	Netfilter bool
	// Reason is why it does not pass, as in [Counter]; empty: for nothing that this node
	// knows. One of a Service (it has no backend, say) comes before the ends are judged,
	// and that of Egress before that of Ingress.
	Reason          string
	Egress, Ingress End
}

// End is what the policies of one end make of it: of the sender about what it sends, of the
// receiver (the backend) about what it is sent.
type End struct {
	Here    bool    // it is an address of this node; else the others are zero
	Set     RuleSet // of the pod in this direction; 0: all may pass
	Class   Class   // of the other end, if a set was asked
	Rule    uint16  // index in Set of the rule that decided; RuleNone: none did
	Verdict Verdict // 0: it was not asked about this end
	Exempt  Exemption
}

// Exemption is why a packet passes whatever policies say.
type Exemption uint8

// Exemptions; 0 is none.
const (
	ExemptNode Exemption = 1 + iota // it is to or from the node itself, which reaches its pods always
	ExemptSelf                      // it is a pod's to itself
	ExemptEcho                      // the address of a Service answers it
)

// Explain asks the programs what would become of a packet that begins a flow, without
// sending it: their own functions judge it by the maps as they are, and change nothing.
// What the flow's former packets did is not asked. From is taken as a pod of this node, of
// another one, or the node itself if it is one, else as a client from outside.
func (d *Datapath) Explain(q Question) (Answer, error) {
	if !q.From.IsValid() || !q.To.IsValid() || q.From.Is4() != q.To.Addr().Is4() {
		return Answer{}, fmt.Errorf("explain %s to %s: not two addresses of one family", q.From, q.To)
	}
	e := weftExplained{From: toAddr(q.From), To: toAddr(q.To.Addr()), Port: q.To.Port(), Proto: uint8(q.Protocol)}
	in, err := binary.Append(make([]byte, 14), native, &e)
	if err != nil {
		return Answer{}, fmt.Errorf("explain: %w", err)
	}
	o := ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in))}
	verdict, err := d.explain.Run(&o)
	if err == nil && verdict != verdictNext {
		err = errors.New("the program could not read the question")
	}
	if err == nil {
		_, err = binary.Decode(o.DataOut[14:], native, &e)
	}
	if err != nil {
		return Answer{}, fmt.Errorf("explain: %w", err)
	}
	a := Answer{
		Service: e.Served != 0, Netfilter: e.Netfilter != 0,
		Egress: endFrom(e.Egress), Ingress: endFrom(e.Ingress),
	}
	if backend := addrFrom(e.Backend); backend.IsValid() {
		a.Backend = netip.AddrPortFrom(backend, e.BackendPort)
	}
	if int(e.Reason) < len(reasons) {
		a.Reason = reasons[e.Reason]
	}
	return a, nil
}

func endFrom(e weftTold) End {
	return End{
		Here: e.Here != 0, Set: RuleSet(e.Set), Class: Class(e.Class), Rule: e.Rule,
		Verdict: Verdict(e.Verdict), Exempt: Exemption(e.Exempt),
	}
}
