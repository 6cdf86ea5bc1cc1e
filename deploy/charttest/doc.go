// Package charttest tests the chart with Helm, and its admission policies with the API
// server's code.
package charttest
