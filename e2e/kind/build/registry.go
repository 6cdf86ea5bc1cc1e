package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// reference is an image's name, taken apart.
type reference struct {
	host       string // of the registry, with its port
	repository string
	version    string // a digest if the name has one, else the tag
	name       string // as docker knows it: without digest
}

// parseReference reads host/repository:tag@digest, of which host and digest may be missing.
func parseReference(s string) reference {
	name, digest, _ := strings.Cut(s, "@")
	r := reference{host: "registry-1.docker.io", repository: name, version: digest, name: name}
	if host, rest, ok := strings.Cut(name, "/"); ok && strings.ContainsAny(host, ".:") {
		r.host, r.repository = host, rest
	}
	if i := strings.LastIndex(r.repository, ":"); i >= 0 {
		if r.version == "" {
			r.version = r.repository[i+1:]
		}
		r.repository = r.repository[:i]
	}
	return r
}

// url of a part of the repository. Registries on this machine, as in tests, speak HTTP.
func (r reference) url(parts ...string) string {
	scheme := "https"
	if strings.HasPrefix(r.host, "127.0.0.1:") {
		scheme = "http"
	}
	return scheme + "://" + r.host + "/v2/" + r.repository + "/" + strings.Join(parts, "/")
}

// The media types of OCI's and Docker's manifests: of an image, and of an index of images
// for several platforms.
const manifestTypes = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, " +
	"application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"

type descriptor struct {
	Digest   string `json:"digest"`
	Size     int64  `json:"size"`
	Platform struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
	} `json:"platform"`
}

// manifest is an image's, or an index if it has Manifests.
type manifest struct {
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
	Manifests []descriptor `json:"manifests"`
}

// puller fetches images from registries, as the OCI's distribution-spec says.
type puller struct {
	client http.Client
	tokens map[string]string // of a repository
}

// firstAnswer is how long a registry may take to answer a small request: one that cannot
// be reached must not cost much time.
const firstAnswer = 15 * time.Second

// pull adds an image to an archive, under its name without digest.
func (p *puller) pull(ctx context.Context, image string, a *archive) error {
	ref := parseReference(image)
	m, err := p.manifest(ctx, ref, ref.version)
	if err != nil {
		return fmt.Errorf("pull %s: %w", image, err)
	}
	if len(m.Manifests) > 0 {
		at := -1
		for i, d := range m.Manifests {
			if d.Platform.OS == "linux" && d.Platform.Architecture == runtime.GOARCH {
				at = i
				break
			}
		}
		if at < 0 {
			return fmt.Errorf("pull %s: it has no image for linux/%s", image, runtime.GOARCH)
		}
		if m, err = p.manifest(ctx, ref, m.Manifests[at].Digest); err != nil {
			return fmt.Errorf("pull %s: %w", image, err)
		}
	}
	entry := manifestEntry{RepoTags: []string{ref.name}}
	for i, d := range append([]descriptor{m.Config}, m.Layers...) {
		name := strings.TrimPrefix(d.Digest, "sha256:")
		if i == 0 {
			name += ".json"
			entry.Config = name
		} else {
			name += ".tar"
			entry.Layers = append(entry.Layers, name)
		}
		if err := p.blob(ctx, ref, d, name, a); err != nil {
			return fmt.Errorf("pull %s: %w", image, err)
		}
	}
	a.manifest = append(a.manifest, entry)
	return nil
}

// manifest fetches a tag's or a digest's.
func (p *puller) manifest(ctx context.Context, ref reference, version string) (m manifest, err error) {
	ctx, stop := context.WithTimeout(ctx, firstAnswer)
	defer stop()
	body, err := p.get(ctx, ref, ref.url("manifests", version))
	if err != nil {
		return m, err
	}
	b, err := io.ReadAll(io.LimitReader(body, 4<<20))
	if err := errors.Join(err, body.Close()); err != nil {
		return m, fmt.Errorf("read manifest: %w", err)
	}
	if want, ok := strings.CutPrefix(version, "sha256:"); ok {
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != want {
			return m, fmt.Errorf("manifest is not the one of digest %s", version)
		}
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read manifest: %w", err)
	}
	return m, nil
}

// blob copies a configuration or a layer, unless the archive has it.
func (p *puller) blob(ctx context.Context, ref reference, d descriptor, name string, a *archive) error {
	if a.has[name] {
		return nil
	}
	body, err := p.get(ctx, ref, ref.url("blobs", d.Digest))
	if err != nil {
		return err
	}
	sum := sha256.New()
	err = a.stream(name, d.Size, io.TeeReader(body, sum))
	if err := errors.Join(err, body.Close()); err != nil {
		return err
	}
	if got := digest(sum); got != d.Digest {
		return fmt.Errorf("blob is not the one of its digest: got %s, want %s", got, d.Digest)
	}
	return nil
}

func digest(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

// get asks for an URL, and once more with the token that the registry says is needed.
func (p *puller) get(ctx context.Context, ref reference, at string) (io.ReadCloser, error) {
	for try := 0; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", manifestTypes)
		if token := p.tokens[ref.repository]; token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		res, err := p.client.Do(req)
		if err != nil {
			return nil, err
		}
		if res.StatusCode == http.StatusOK {
			return res.Body, nil
		}
		challenge := res.Header.Get("WWW-Authenticate")
		if err := res.Body.Close(); err != nil {
			return nil, err
		}
		if res.StatusCode != http.StatusUnauthorized || try > 0 {
			return nil, fmt.Errorf("get %s: %s", at, res.Status)
		}
		if err := p.authorize(ctx, ref, challenge); err != nil {
			return nil, err
		}
	}
}

var challengeField = regexp.MustCompile(`(\w+)="([^"]*)"`)

// authorize gets a token for pulling without an account.
func (p *puller) authorize(ctx context.Context, ref reference, challenge string) error {
	fields, query := map[string]string{}, url.Values{}
	for _, m := range challengeField.FindAllStringSubmatch(challenge, -1) {
		fields[m[1]] = m[2]
		if m[1] != "realm" {
			query.Set(m[1], m[2])
		}
	}
	if fields["realm"] == "" {
		return fmt.Errorf("registry %s wants an authorization that is not known: %q", ref.host, challenge)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fields["realm"]+"?"+query.Encode(), nil)
	if err != nil {
		return fmt.Errorf("get a token: %w", err)
	}
	res, err := p.client.Do(req)
	if err != nil {
		return fmt.Errorf("get a token: %w", err)
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	err = json.NewDecoder(res.Body).Decode(&answer)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return fmt.Errorf("get a token: %s: %w", res.Status, err)
	}
	if p.tokens == nil {
		p.tokens = map[string]string{}
	}
	if p.tokens[ref.repository] = answer.Token; answer.Token == "" {
		p.tokens[ref.repository] = answer.AccessToken
	}
	return nil
}
