//go:build !weft_crash

// Package crash lets tests kill a Weft process right after any single write.
//
// Every write that outlives the process (file, netlink, BPF) is followed by a
// call of [Point]. In normal builds that call is empty and is inlined away. In
// builds with the tag weft_crash (tests only) it counts, and ends the process
// with SIGKILL after the write it was armed for.
package crash

// Point marks the end of one write. The name says which, for the test's report.
func Point(string) {}
