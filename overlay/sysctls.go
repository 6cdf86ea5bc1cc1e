package overlay

import "net/netip"

// Sysctls is the target of kernel settings below /proc/sys, keyed by path
// ("net/ipv4/ip_forward"). It keeps the former values in a file.
type Sysctls struct{}

// NewSysctls keeps the former values in the file save.
func NewSysctls(save string) *Sysctls { return &Sysctls{} }

func (s *Sysctls) Dump() (map[string]string, error) { return nil, nil }
func (s *Sysctls) Set(key, value string) error      { return nil }
func (s *Sysctls) Delete(key string) error          { return nil }

// Restore gives all settings their former values back, for uninstall.
func (s *Sysctls) Restore() error { return nil }

// SelfSysctls returns the settings the node needs for these pod prefixes and uplinks.
func SelfSysctls(podCIDRs []netip.Prefix, uplinks []Uplink) map[string]string { return nil }
