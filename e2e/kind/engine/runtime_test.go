package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestRequestFindsTheFileThatDescribesTheProcess(t *testing.T) {
	for _, tc := range []struct {
		name       string
		args       []string
		verb, file string
	}{
		{"create", []string{"--root", "/r", "--log", "/l", "create", "--bundle", "/b", "--pid-file", "/p", "id"}, "create", "/b/config.json"},
		{"create, with =", []string{"create", "--bundle=/b", "id"}, "create", "/b/config.json"},
		{"exec", []string{"--root", "/r", "exec", "--process", "/p.json", "--detach", "id"}, "exec", "/p.json"},
		{"start", []string{"--root", "/r", "start", "id"}, "", ""},
		{"delete", []string{"delete", "--force", "id"}, "", ""},
	} {
		verb, file := request(tc.args)
		if verb != tc.verb || file != tc.file {
			t.Errorf("%s: got %q, %q, want %q, %q", tc.name, verb, file, tc.verb, tc.file)
		}
	}
}

func TestPrivilegedContainersGetYoungCapabilities(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"privileged":    {`{"process": {"capabilities": {"bounding": ["CAP_SYS_ADMIN"]}}}`, `{"process": {"capabilities": {"bounding": ["CAP_SYS_ADMIN", "CAP_BPF", "CAP_PERFMON"]}}}`},
		"has one":       {`{"capabilities": {"bounding": ["CAP_BPF", "CAP_SYS_ADMIN"]}}`, `{"capabilities": {"bounding": ["CAP_BPF", "CAP_SYS_ADMIN", "CAP_PERFMON"]}}`},
		"no privileges": {`{"capabilities": {"bounding": ["CAP_KILL"]}}`, `{"capabilities": {"bounding": ["CAP_KILL"]}}`},
	} {
		changed(t, name, tc.in, tc.want, func(spec map[string]any) {
			grantYoung(spec, func(c int) bool { return c != unix.CAP_CHECKPOINT_RESTORE })
		})
	}
}

func TestRestrictTakesWhatNeedsTheMissingCapability(t *testing.T) {
	const process = `{"args": ["sh"], "oomScoreAdj": -500, "rlimits": [{"type": "RLIMIT_NOFILE"}],
		"capabilities": {"bounding": ["CAP_KILL", "CAP_SYS_RESOURCE"], "effective": ["CAP_SYS_RESOURCE"]}}`
	const less = `{"args": ["sh"], "oomScoreAdj": 0, "capabilities": {"bounding": ["CAP_KILL"], "effective": []}}`
	for name, tc := range map[string]struct{ in, want string }{
		"a container's":    {`{"process": ` + process + `, "hostname": "n"}`, `{"process": ` + less + `, "hostname": "n"}`},
		"a process":        {process, less},
		"no capabilities":  {`{"args": ["sh"]}`, `{"args": ["sh"]}`},
		"a positive score": {`{"oomScoreAdj": 100}`, `{"oomScoreAdj": 100}`},
	} {
		changed(t, name, tc.in, tc.want, restrict)
	}
}

// changed wants a description to become another.
func changed(t *testing.T, name, in, out string, change func(map[string]any)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "spec.json")
	if err := os.WriteFile(file, []byte(in), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rewrite(file, change); err != nil {
		t.Fatal(err)
	}
	var got, want any
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}
