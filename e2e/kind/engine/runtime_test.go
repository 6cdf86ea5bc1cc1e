package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
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
		file := filepath.Join(t.TempDir(), "spec.json")
		if err := os.WriteFile(file, []byte(tc.in), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := rewrite(file, restrict); err != nil {
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
		if err := json.Unmarshal([]byte(tc.want), &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
