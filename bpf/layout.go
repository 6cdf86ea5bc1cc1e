package bpf

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/bits"
	"regexp"
	"time"

	"github.com/cilium/ebpf"
)

// abi is raised when the meaning of a map's bytes changes and its form does not.
const abi = 1

// lastingABI is the same for each of the lasting maps; 1 for those that are not here.
var lastingABI = map[string]int{
	weftMapBrief:      3, // sets say more
	weftMapAllowedNew: 2, // home_of in src/home.h is another
}

// pinnedMaps are the maps that outlive a daemon.
var pinnedMaps = []string{
	weftMapCounters, weftMapEndpoints, weftMapPeers, weftMapNodes,
	weftMapAlive, weftMapBackends, weftMapMaglev, weftMapRanges, weftMapSets, weftMapFrontends, weftMapPlaces,
	weftMapOwn, weftMapClasses, weftMapRules,
}

// lastingMaps outlive a layout too: the programs write them, and nobody could fill
// them again; or, of announced addresses, two layouts must say the same. Each is pinned by
// its own form.
var lastingMaps = []string{
	weftMapSockets, weftMapDatagrams, weftMapAffinity,
	weftMapLive, weftMapBrief, weftMapClients, weftMapPairs, weftMapFragments,
	weftMapAllowed, weftMapAllowedNew, weftMapAliveRevision,
	weftMapAnnounced, weftMapHeartbeat, weftMapClaims,
}

// loadedMaps are not pinned: each daemon reads what its own programs tell, and asks them.
var loadedMaps = []string{weftMapRecords, weftMapRecordsLost, weftMapReturned, weftMapChecked}

// attachTypes are the programs of devices, and where each is attached.
var attachTypes = map[Program]ebpf.AttachType{
	FromPod:     ebpf.AttachTCXIngress,
	ToPod:       ebpf.AttachTCXEgress,
	FromUplink:  ebpf.AttachTCXIngress,
	ToUplink:    ebpf.AttachTCXEgress,
	ToOverlay:   ebpf.AttachTCXEgress,
	FromOverlay: ebpf.AttachTCXIngress,
}

// socketTypes are the programs of sockets, and where each is attached.
var socketTypes = map[Program]ebpf.AttachType{
	SockConnect4: ebpf.AttachCGroupInet4Connect,
	SockConnect6: ebpf.AttachCGroupInet6Connect,
	SockSend4:    ebpf.AttachCGroupUDP4Sendmsg,
	SockSend6:    ebpf.AttachCGroupUDP6Sendmsg,
	SockRecv4:    ebpf.AttachCGroupUDP4Recvmsg,
	SockRecv6:    ebpf.AttachCGroupUDP6Recvmsg,
	SockPeer4:    ebpf.AttachCgroupInet4GetPeername,
	SockPeer6:    ebpf.AttachCgroupInet6GetPeername,
	SockRelease:  ebpf.AttachCgroupInetSockRelease,
}

// layoutName is what [layout] returns, and no other entry of the pin folder.
var layoutName = regexp.MustCompile(`^[0-9a-f]{12}$`)

// specs is the embedded object with the options' sizes and configuration in it.
func specs(o Options) (*ebpf.CollectionSpec, error) {
	spec, err := loadWeft()
	if err != nil {
		return nil, fmt.Errorf("read embedded programs: %w", err)
	}
	slots := slotsFor(o.maxEndpoints())
	spec.Maps[weftMapEndpoints].MaxEntries = slots
	spec.Maps[weftMapPeers].MaxEntries = cmp.Or(o.MaxPeers, DefaultMaxPeers)
	spec.Maps[weftMapNodes].MaxEntries = cmp.Or(o.MaxPeers, DefaultMaxPeers)
	sockets := cmp.Or(o.MaxSockets, DefaultMaxSockets)
	spec.Maps[weftMapSockets].MaxEntries = sockets
	spec.Maps[weftMapDatagrams].MaxEntries = sockets
	flows := cmp.Or(o.MaxFlows, DefaultMaxFlows)
	spec.Maps[weftMapLive].MaxEntries = flows
	ended := endedSize(flows)
	spec.Maps[weftMapEnded].MaxEntries = ended
	brief := briefSets(cmp.Or(o.MaxBriefFlows, DefaultMaxBriefFlows))
	spec.Maps[weftMapBrief].MaxEntries = brief + 1 // the seed
	spec.Maps[weftMapClasses].MaxEntries = cmp.Or(o.MaxClasses, DefaultMaxClasses)
	spec.Maps[weftMapRules].MaxEntries = cmp.Or(o.MaxRules, DefaultMaxRules)
	spec.Maps[weftMapAllowed].MaxEntries = cmp.Or(o.MaxAllowed, DefaultMaxAllowed)
	allowed := allowedSets(cmp.Or(o.MaxAllowedNew, DefaultMaxAllowedNew))
	spec.Maps[weftMapAllowedNew].MaxEntries = allowed + 1 // the seed
	config := weftConfig{Vni: o.Config.VNI, Port: o.Config.Port, NetnsCookie: o.Config.NetnsCookie, Ended: ended,
		AllowedSets: allowed, AllowedPart: part(allowed), BriefSets: brief, BriefPart: part(brief), EndpointSlots: slots, AnnouncePort: cmp.Or(o.Config.AnnouncePort, DefaultAnnouncePort)}
	if o.Config.Netfilter {
		config.Netfilter = true
	}
	if config.NetnsCookie == 0 {
		if config.NetnsCookie, err = netnsCookie(); err != nil {
			return nil, err
		}
	}
	if err := spec.Variables[weftVarConfig].Set(config); err != nil {
		return nil, fmt.Errorf("set configuration of the programs: %w", err)
	}
	if err := spec.Variables[weftVarPolicyRevision].Set(firstRevision()); err != nil {
		return nil, fmt.Errorf("set revision of policies: %w", err)
	}
	// A part of time is 2^27 ns.
	rate := max(1, uint32(uint64(cmp.Or(o.RecordRate, DefaultRecordRate))<<27/uint64(time.Second)))
	if err := spec.Variables[weftVarRecordsRate].Set(rate); err != nil {
		return nil, fmt.Errorf("set rate of records: %w", err)
	}
	return spec, nil
}

// endedSize is how many flows are kept for a while after their end, of so many rows of
// `live`: a power of two. They take at most an eighth of it (a flow has two rows).
func endedSize(flows uint32) uint32 {
	const least, most = 16, 16384
	return min(max(uint32(1)<<(bits.Len32(flows/16|1)-1), least), most)
}

// layout hashes the form of all pinned maps.
func layout(spec *ebpf.CollectionSpec) string {
	h := sha256.New()
	fmt.Fprintln(h, "abi", abi)
	for _, name := range pinnedMaps {
		writeForm(h, name, spec.Maps[name])
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// lastingPin is the name of a lasting map's pin: another form has another.
func lastingPin(name string, m *ebpf.MapSpec) string {
	h := sha256.New()
	fmt.Fprintln(h, "abi", cmp.Or(lastingABI[name], 1))
	writeForm(h, name, m)
	return name + "-" + hex.EncodeToString(h.Sum(nil))[:12]
}

func writeForm(w io.Writer, name string, m *ebpf.MapSpec) {
	fmt.Fprintln(w, name, m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags)
}
