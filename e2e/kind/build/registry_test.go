package build

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// registry serves one image for two platforms, to who has a token.
type registry struct {
	*httptest.Server
	blobs map[string]string // by digest, manifests too
	index string            // digest
}

func sha(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func serve(t *testing.T) *registry {
	t.Helper()
	r := &registry{blobs: map[string]string{}}
	add := func(s string) map[string]any {
		r.blobs[sha(s)] = s
		return map[string]any{"digest": sha(s), "size": len(s)}
	}
	marshal := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	var platforms []any
	for _, arch := range []string{"other", runtime.GOARCH} {
		d := add(marshal(map[string]any{"config": add("config for " + arch), "layers": []any{add("layer for " + arch)}}))
		d["platform"] = map[string]string{"os": "linux", "architecture": arch}
		platforms = append(platforms, d)
	}
	index := marshal(map[string]any{"manifests": platforms})
	add(index)
	r.index = sha(index)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprintf(w, `{"token": %q}`, "let me "+q.FormValue("scope"))
	})
	mux.HandleFunc("GET /v2/team/tool/{kind}/{version}", func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Authorization") != "Bearer let me pull" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+r.URL+`/token",service="here",scope="pull"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		version := q.PathValue("version")
		if version == "v1" {
			version = r.index
		}
		b, ok := r.blobs[version]
		if !ok {
			http.NotFound(w, q)
			return
		}
		fmt.Fprint(w, b)
	})
	r.Server = httptest.NewServer(mux)
	t.Cleanup(r.Close)
	return r
}

func (r *registry) image() string { return strings.TrimPrefix(r.URL, "http://") + "/team/tool:v1" }

func TestPullTakesThisPlatformsImage(t *testing.T) {
	r := serve(t)
	for _, image := range []string{r.image(), r.image() + "@" + r.index} {
		dir := t.TempDir()
		if err := (PulledImages{Images: []string{image}}).Make(t.Context(), nil, dir); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "images.tar"))
		if err != nil {
			t.Fatal(err)
		}
		config, layer := "config for "+runtime.GOARCH, "layer for "+runtime.GOARCH
		configFile, layerFile := sha(config)[7:]+".json", sha(layer)[7:]+".tar"
		want := map[string]string{
			configFile: config, layerFile: layer,
			"manifest.json": fmt.Sprintf(`[{"Config":%q,"RepoTags":[%q],"Layers":[%q]}]`, configFile, r.image(), layerFile),
		}
		if diff := cmp.Diff(want, unpack(t, bytes.NewReader(b))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", image, diff)
		}
	}
}

func TestPullRefusesWhatIsNotOfItsDigest(t *testing.T) {
	for name, spoil := range map[string]func(*registry) string{
		"index": func(r *registry) string { return r.index },
		"layer": func(*registry) string { return sha("layer for " + runtime.GOARCH) },
	} {
		r := serve(t)
		at := spoil(r)
		r.blobs[at] = strings.ToUpper(r.blobs[at])
		err := PulledImages{Images: []string{r.image() + "@" + r.index}}.Make(t.Context(), nil, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), "is not the one of") {
			t.Errorf("%s: pull = %v, want it refused", name, err)
		}
	}
}

func TestPullSaysWhatIsNotThere(t *testing.T) {
	r := serve(t)
	err := PulledImages{Images: []string{strings.TrimSuffix(r.image(), "v1") + "v2"}}.Make(t.Context(), nil, t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("pull = %v, want 404", err)
	}
}

func TestImageNamesAreReadAsDockerReadsThem(t *testing.T) {
	for in, want := range map[string]reference{
		"kindest/node:v1@sha256:ab":    {"registry-1.docker.io", "kindest/node", "sha256:ab", "kindest/node:v1"},
		"registry.k8s.io/pause:3.10":   {"registry.k8s.io", "pause", "3.10", "registry.k8s.io/pause:3.10"},
		"127.0.0.1:5000/team/tool:1.0": {"127.0.0.1:5000", "team/tool", "1.0", "127.0.0.1:5000/team/tool:1.0"},
	} {
		if got := parseReference(in); got != want {
			t.Errorf("%s: got %+v, want %+v", in, got, want)
		}
	}
}
