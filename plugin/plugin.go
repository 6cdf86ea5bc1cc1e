// Package plugin is the CNI plugin: it turns the runtime's calls into requests to the
// daemon, and installs itself with its network configuration.
package plugin

// Main is the whole of weft-cni.
func Main() {}
