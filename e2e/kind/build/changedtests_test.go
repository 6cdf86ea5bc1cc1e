package build

import (
	"strings"
	"testing"
)

func TestEditsChangeWhatTheyWereMadeFor(t *testing.T) {
	const manifest = `
        - name: server-80
          image: example.com/agnhost:2.45
          command: ["/bin/bash", "-c", "/agnhost serve-hostname --port 80"]
        - name: server-9003
          image: example.com/agnhost:2.45
          command: ["/bin/bash", "-c", "/agnhost porter"]
          env:
          - name: SERVE_SCTP_PORT_9003
            value: "foo"
        - name: server-53
          image: example.com/agnhost:2.45
`
	drop := PolicyAPI(false).Edits[1]
	drop.Times = 1
	got, err := drop.apply([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	want := manifest[:strings.Index(manifest, "        - name: server-9003")] + manifest[strings.Index(manifest, "        - name: server-53"):]
	if string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	got, err = Edit{Path: "a.go", Match: `(?m)^\tcall\(\)$`, With: "\tbefore()\n${0}", Times: 1}.apply([]byte("{\n\tcall()\n}\n"))
	if want := "{\n\tbefore()\n\tcall()\n}\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestEditsOfAnotherFileThanTheyWereMadeForFail(t *testing.T) {
	for _, times := range []int{0, 1, 3} {
		if got, err := (Edit{Path: "f", Match: "a", With: "b", Times: times}).apply([]byte("a a")); err == nil {
			t.Errorf("a rule for %d places changed a file with 2 to %q, want an error", times, got)
		}
	}
}

func TestWithSCTPNothingIsLeftOut(t *testing.T) {
	for _, sctp := range []bool{true, false} {
		for _, e := range PolicyAPI(sctp).Edits {
			if leaves := strings.Contains(e.Match+e.With, "SCTP"); sctp && leaves {
				t.Errorf("with SCTP %s is changed by %q", e.Path, e.Match)
			}
		}
	}
	if key(PolicyAPI(true)) == key(PolicyAPI(false)) {
		t.Error("the suites with and without SCTP are one artefact, want two")
	}
}
