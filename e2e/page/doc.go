// Package page tests the page of `weft web` in a browser: Debian's Chromium, driven over
// the DevTools protocol, on a cluster of namespaces.
package page
