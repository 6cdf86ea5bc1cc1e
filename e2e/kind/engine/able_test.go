package engine

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestUnableWithoutCgroups(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		mounts []cgroupMount
		want   string // in the error; empty: none
	}{
		"all writable":   {[]cgroupMount{{path: dir}, {path: t.TempDir()}}, ""},
		"none":           {nil, "no cgroup hierarchy is mounted"},
		"one is not":     {[]cgroupMount{{path: dir}, {path: "/proc/self"}}, "/proc/self must be mounted for writing"},
		"one is missing": {[]cgroupMount{{path: filepath.Join(dir, "x")}}, "make a cgroup"},
	} {
		err := writable(tt.mounts)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}
