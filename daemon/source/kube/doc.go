// Package kube tells the daemon what the cluster looks like, from the Kubernetes API: the
// same [source.State] as package source makes of a folder.
//
// It watches Nodes, the Pods of its own node, Services, EndpointSlices, Namespaces,
// NetworkPolicies and, if the API has them, ClusterNetworkPolicies, and keeps of each what
// package source keeps. Once there was a policy it watches the Pods of all nodes, until it
// ends; those of other nodes are in the state while they have addresses, without UID and
// always ready. An object that cannot be read is left out, or stays as
// it was, and is a Problem; the others go on. While no API server can be reached all stays
// as it was, for however long.
//
// It finds the API servers without a ClusterIP, which it may be that makes these work: by
// a list, by the kubelet's kubeconfig, and by the addresses that the API itself had last.
package kube
