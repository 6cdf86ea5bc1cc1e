package upstream

// Conformance are the specs that every Kubernetes network must pass.
const Conformance = `\[sig-network\].*\[Conformance\]`
