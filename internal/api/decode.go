package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"unicode"
)

const (
	// MaxRequest is the size of the largest request the daemon reads, in bytes.
	MaxRequest = 4 << 20
	// MaxContainerID is the length of the longest container ID: with it and the
	// longest name of an interface, "weft:<containerID>/<ifname>" fills the alias of
	// a device (IFALIASZ in include/uapi/linux/if.h, 256 with the final zero).
	MaxContainerID = 255 - len("weft:") - len("/") - maxIfName

	maxIfName = 15 // IFNAMSIZ without the final zero
)

// DecodeAttach reads an Attach and validates it. It refuses unknown keys, what
// follows the object, and more than [MaxRequest] bytes. Errors are [*Error].
func DecodeAttach(r io.Reader) (Attach, error) {
	var a Attach
	if err := decode(r, &a); err != nil {
		return Attach{}, err
	}
	return a, a.Validate()
}

// DecodeGC reads a GC as strictly as [DecodeAttach].
func DecodeGC(r io.Reader) (GC, error) {
	var g GC
	if err := decode(r, &g); err != nil {
		return GC{}, err
	}
	return g, g.Validate()
}

// DecodeExplain reads an ExplainRequest as strictly as [DecodeAttach].
func DecodeExplain(r io.Reader) (ExplainRequest, error) {
	var e ExplainRequest
	if err := decode(r, &e); err != nil {
		return ExplainRequest{}, err
	}
	return e, e.Validate()
}

// DecodeServiceQuery reads a ServiceQuery as strictly as [DecodeAttach].
func DecodeServiceQuery(r io.Reader) (ServiceQuery, error) {
	var q ServiceQuery
	if err := decode(r, &q); err != nil {
		return ServiceQuery{}, err
	}
	return q, q.Validate()
}

func decode(r io.Reader, into any) error {
	limited := &io.LimitedReader{R: r, N: MaxRequest + 1}
	d := json.NewDecoder(limited)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the JSON object")
		}
	}
	switch {
	case limited.N <= 0:
		return &Error{Code: CodeDecode, Msg: fmt.Sprintf("request is larger than %d bytes", MaxRequest)}
	case errors.Is(err, io.EOF):
		return &Error{Code: CodeDecode, Msg: "request is empty"}
	case err != nil:
		return &Error{Code: CodeDecode, Msg: "request cannot be decoded", Details: err.Error()}
	}
	return nil
}

// Validate returns an [*Error] that names the first bad field, or nil.
func (a *Attach) Validate() error {
	if err := validRef(Ref{a.ContainerID, a.IfName}); err != nil {
		return err
	}
	if a.Network == "" {
		return &Error{Code: CodeBadConfig, Msg: "name of the network is missing"}
	}
	for _, ip := range a.IPs {
		if !ip.IsValid() || ip.Zone() != "" || ip.Is4In6() || ip.IsUnspecified() || ip.IsMulticast() {
			return &Error{Code: CodeBadConfig, Msg: fmt.Sprintf("ips: %q is not an address for a pod", ip)}
		}
	}
	if a.MAC != "" {
		mac, err := net.ParseMAC(a.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
			return &Error{Code: CodeBadConfig, Msg: fmt.Sprintf("mac: %q is not a unicast Ethernet address", a.MAC)}
		}
	}
	for _, m := range a.PortMappings {
		if err := m.validate(); err != nil {
			return err
		}
	}
	return nil
}

func (m PortMapping) validate() error {
	switch m.Protocol {
	case "", "tcp", "udp", "sctp":
	default:
		return &Error{Code: CodeBadConfig, Msg: fmt.Sprintf("portMappings: protocol %q is none of tcp, udp, sctp", m.Protocol)}
	}
	if m.ContainerPort == 0 {
		return &Error{Code: CodeBadConfig, Msg: "portMappings: containerPort is missing"}
	}
	if m.HostIP != "" && net.ParseIP(m.HostIP) == nil {
		return &Error{Code: CodeBadConfig, Msg: fmt.Sprintf("portMappings: hostIP %q is not an address", m.HostIP)}
	}
	return nil
}

// Validate returns an [*Error] that names the first bad field, or nil.
func (g *GC) Validate() error {
	if g.Network == "" {
		return &Error{Code: CodeBadConfig, Msg: "name of the network is missing"}
	}
	for _, r := range g.Valid {
		if r.ContainerID == "" || r.IfName == "" {
			return &Error{Code: CodeBadConfig, Msg: fmt.Sprintf("valid attachment %q lacks containerID or ifname", r)}
		}
	}
	return nil
}

// validRef holds names to the rules of CNI (SPEC 1.1.0, "Parameters") and to what
// fits into the alias of a device.
func validRef(r Ref) error {
	bad := func(format string, args ...any) error {
		return &Error{Code: CodeBadEnv, Msg: fmt.Sprintf(format, args...)}
	}
	switch id := r.ContainerID; {
	case id == "":
		return bad("container ID is missing")
	case len(id) > MaxContainerID:
		return bad("container ID has %d characters, more than %d", len(id), MaxContainerID)
	case !alnum(id[0]) || strings.IndexFunc(id, func(c rune) bool { return c > unicode.MaxASCII || !alnum(byte(c)) && !strings.ContainsRune("_.-", c) }) >= 0:
		return bad("container ID %q has characters other than letters, digits, '_', '.', '-'", id)
	}
	switch name := r.IfName; {
	case name == "":
		return bad("name of the interface is missing")
	case len(name) > maxIfName:
		return bad("name of the interface %q has more than %d characters", name, maxIfName)
	case name == "." || name == "..":
		return bad("name of the interface is %q", name)
	case strings.IndexFunc(name, func(c rune) bool { return c == '/' || c == ':' || unicode.IsSpace(c) || c == 0 }) >= 0:
		return bad("name of the interface %q has a '/', ':' or white space", name)
	}
	return nil
}

func alnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
