package api

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

const whole = `{"containerID":"c1","ifName":"eth0","netns":"/x","network":"weft","ips":["10.0.0.1","fd00::1"],"mac":"02:00:00:00:00:01",
 "portMappings":[{"hostPort":1,"containerPort":2,"protocol":"sctp","hostIP":"::1"}],"bandwidth":{"ingressRate":1},"dns":{},"prevResult":{"a":1}}`

func TestDecodeAttach(t *testing.T) {
	if _, err := DecodeAttach(strings.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", MaxContainerID+1)
	for name, tc := range map[string]struct {
		body, text string
		code       uint
	}{
		"empty":             {"", "empty", CodeDecode},
		"cut":               {whole[:40], "decoded", CodeDecode},
		"no object":         {"[]", "decoded", CodeDecode},
		"unknown key":       {`{"containerID":"c1","frob":1}`, "frob", CodeDecode},
		"two objects":       {whole + "{}", "follows", CodeDecode},
		"garbage after":     {whole + "]", "follows", CodeDecode},
		"too large":         {`{"netns":"` + strings.Repeat("x", MaxRequest) + `"}`, "larger than", CodeDecode},
		"null":              {`null`, "container ID", CodeBadEnv},
		"no container":      {`{"ifName":"eth0","network":"weft"}`, "container ID is missing", CodeBadEnv},
		"long container":    {`{"containerID":"` + long + `","ifName":"eth0","network":"weft"}`, "characters", CodeBadEnv},
		"path as container": {`{"containerID":"../x","ifName":"eth0","network":"weft"}`, "../x", CodeBadEnv},
		"foreign letters":   {`{"containerID":"cé","ifName":"eth0","network":"weft"}`, "cé", CodeBadEnv},
		"no ifname":         {`{"containerID":"c1","network":"weft"}`, "interface is missing", CodeBadEnv},
		"dots":              {`{"containerID":"c1","ifName":"..","network":"weft"}`, `".."`, CodeBadEnv},
		"slash":             {`{"containerID":"c1","ifName":"a/b","network":"weft"}`, "a/b", CodeBadEnv},
		"no network":        {`{"containerID":"c1","ifName":"eth0"}`, "network", CodeBadConfig},
		"any address":       {`{"containerID":"c1","ifName":"eth0","network":"weft","ips":["::"]}`, "::", CodeBadConfig},
		"no address":        {`{"containerID":"c1","ifName":"eth0","network":"weft","ips":[""]}`, "address", CodeBadConfig},
		"mapped address":    {`{"containerID":"c1","ifName":"eth0","network":"weft","ips":["::ffff:10.0.0.1"]}`, "10.0.0.1", CodeBadConfig},
		"group MAC":         {`{"containerID":"c1","ifName":"eth0","network":"weft","mac":"ff:ff:ff:ff:ff:ff"}`, "ff:ff", CodeBadConfig},
		"port 65536":        {`{"containerID":"c1","ifName":"eth0","network":"weft","portMappings":[{"containerPort":65536}]}`, "65536", CodeDecode},
		"port 0":            {`{"containerID":"c1","ifName":"eth0","network":"weft","portMappings":[{"hostPort":1}]}`, "containerPort", CodeBadConfig},
		"host address":      {`{"containerID":"c1","ifName":"eth0","network":"weft","portMappings":[{"containerPort":1,"hostIP":"x"}]}`, "hostIP", CodeBadConfig},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeAttach(strings.NewReader(tc.body))
			var e *Error
			if !errors.As(err, &e) || e.Code != tc.code || !strings.Contains(e.Error(), tc.text) {
				t.Errorf("got %v, want code %d with %q", err, tc.code, tc.text)
			}
		})
	}
}

// The longest names fill the alias of a device, and do not exceed it.
func TestLongestNamesFitTheAlias(t *testing.T) {
	r := Ref{strings.Repeat("c", MaxContainerID), strings.Repeat("i", maxIfName)}
	if err := validRef(r); err != nil {
		t.Error(err)
	}
	if got := len("weft:" + r.String()); got != 255 {
		t.Errorf("alias has %d characters, want 255", got)
	}
}

func TestDecodeGC(t *testing.T) {
	g, err := DecodeGC(strings.NewReader(`{"network":"weft","valid":[{"containerID":"c","ifname":"e"}]}`))
	if err != nil || len(g.Valid) != 1 || g.Valid[0].String() != "c/e" {
		t.Errorf("got %+v, %v", g, err)
	}
	for _, body := range []string{`{"valid":[]}`, `{"network":"weft","valid":[{}]}`, `{"network":"weft","valid":5}`, ``} {
		var e *Error
		if _, err := DecodeGC(strings.NewReader(body)); !errors.As(err, &e) {
			t.Errorf("%s: got %v, want an Error", body, err)
		}
	}
}

// Whatever is accepted can be passed on without a change.
func FuzzDecodeAttach(f *testing.F) {
	for _, s := range []string{whole, `{}`, `null`, `{"containerID":"c1","ifName":"eth0","network":"n"}`, `{"ips":["::1%eth0"]}`, `[`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := DecodeAttach(strings.NewReader(s))
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Code == 0 || e.Msg == "" {
				t.Fatalf("error without code or message: %v", err)
			}
			return
		}
		b, err := json.Marshal(a)
		if err != nil {
			t.Fatalf("accepted, but cannot be encoded: %v", err)
		}
		again, err := DecodeAttach(strings.NewReader(string(b)))
		if err != nil {
			t.Fatalf("accepted, but not again: %v", err)
		}
		b2, _ := json.Marshal(again)
		if !reflect.DeepEqual(b, b2) {
			t.Errorf("changed: %s to %s", b, b2)
		}
	})
}

func FuzzDecodeGC(f *testing.F) {
	f.Add(`{"network":"weft","valid":[{"containerID":"c","ifname":"e"}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		g, err := DecodeGC(strings.NewReader(s))
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("error without code: %v", err)
		}
		if err == nil && g.Network == "" {
			t.Error("accepted without network")
		}
	})
}
