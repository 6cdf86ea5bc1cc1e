package web

import (
	"net/http"
	"strings"
	"testing"
)

// A name that somebody else's DNS server may make lead here is refused (DNS rebinding).
func TestOnlyOwnNamesAreAnswered(t *testing.T) {
	h := Handler(daemonAt(t))
	for host, want := range map[string]int{
		"127.0.0.1:8087": 200, "127.0.0.1": 200, "[::1]:8087": 200, "[::1]": 200, "localhost:8087": 200, "LocalHost": 200,
		"weft.localhost:8087": 200, "192.0.2.1:8087": 200,
		"evil.example": 421, "evil.example:8087": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example:8087": 421,
		"notlocalhost": 421, "[::1].evil.example": 421, "": 421,
	} {
		for _, path := range []string{"/", "/api/state"} {
			r := ask(h, "GET", path, "Host", host)
			if host == "" {
				r = askWithoutHost(h, path)
			}
			if r.Code != want {
				t.Errorf("host %q, %s: HTTP %d, want %d", host, path, r.Code, want)
			}
		}
	}
}

// Other sites may lead here, but not ask; nobody can change anything.
func TestOtherSitesMayNotAsk(t *testing.T) {
	h := Handler(daemonAt(t))
	for _, tc := range []struct {
		site, path string
		want       int
	}{
		{"same-origin", "/api/state", 200}, {"none", "/api/state", 200}, {"cross-site", "/", 200},
		{"cross-site", "/api/state", 403}, {"same-site", "/api/state", 403},
	} {
		if w := ask(h, "GET", tc.path, "Sec-Fetch-Site", tc.site); w.Code != tc.want {
			t.Errorf("%s from %s: HTTP %d, want %d", tc.path, tc.site, w.Code, tc.want)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		for _, path := range []string{"/", "/api/state", "/api/services"} {
			if w := ask(h, method, path); w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: HTTP %d, want 405", method, path, w.Code)
			}
		}
	}
}

func TestHeadersForbidWhatIsNotNeeded(t *testing.T) {
	h := Handler(daemonAt(t))
	for _, path := range []string{"/", "/app.js", "/api/state", "/api/drops"} {
		head := ask(h, "GET", path, "Origin", "http://evil.example").Header()
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
		} {
			if got := head.Get(name); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		for name := range head {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: %s lets others read it", path, name)
			}
		}
	}
}
