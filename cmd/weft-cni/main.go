// Command weft-cni is Weft's CNI plugin. Container runtimes call it, see CNI SPEC.md.
package main

import "github.com/weftnet/weft/plugin"

func main() { plugin.Main() }
