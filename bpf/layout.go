package bpf

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"

	"github.com/cilium/ebpf"
)

// abi is raised when the meaning of a map's bytes changes and its form does not.
const abi = 1

// pinnedMaps are the maps that outlive a daemon.
var pinnedMaps = []string{weftMapCounters, weftMapEndpoints, weftMapPeers}

// attachTypes are the programs, and where each is attached.
var attachTypes = map[Program]ebpf.AttachType{
	FromPod:     ebpf.AttachTCXIngress,
	FromUplink:  ebpf.AttachTCXIngress,
	ToOverlay:   ebpf.AttachTCXEgress,
	FromOverlay: ebpf.AttachTCXIngress,
}

// layoutName is what [layout] returns, and no other entry of the pin folder.
var layoutName = regexp.MustCompile(`^[0-9a-f]{12}$`)

// specs is the embedded object with the options' sizes and configuration in it.
func specs(o Options) (*ebpf.CollectionSpec, error) {
	spec, err := loadWeft()
	if err != nil {
		return nil, fmt.Errorf("read embedded programs: %w", err)
	}
	spec.Maps[weftMapEndpoints].MaxEntries = cmp.Or(o.MaxEndpoints, DefaultMaxEndpoints)
	spec.Maps[weftMapPeers].MaxEntries = cmp.Or(o.MaxPeers, DefaultMaxPeers)
	config := weftConfig{Vni: o.Config.VNI, Port: o.Config.Port}
	if err := spec.Variables[weftVarConfig].Set(config); err != nil {
		return nil, fmt.Errorf("set configuration of the programs: %w", err)
	}
	return spec, nil
}

// layout hashes the form of all pinned maps.
func layout(spec *ebpf.CollectionSpec) string {
	h := sha256.New()
	fmt.Fprintln(h, "abi", abi)
	for _, name := range pinnedMaps {
		m := spec.Maps[name]
		fmt.Fprintln(h, name, m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}
