package bpf

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEveryReasonIsDocumented(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../docs/status.md")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for r, name := range reasons {
		if name != "" {
			want = append(want, kindOf(weftReason(r))+" "+name)
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| (drop|reject|stack) \\| `([a-z-]+)` \\| .+ \\|$").FindAllStringSubmatch(string(b), -1) {
		got = append(got, m[1]+" "+m[2])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reasons (-code +docs/status.md):\n%s", diff)
	}
}
