package plugin

import (
	"errors"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/weftnet/weft/internal/api"
)

// Whatever a configuration holds, the daemon gets a valid request or the runtime an
// error with a code of the specification.
func FuzzConf(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `[]`, `{"cniVersion":"1.1.0","name":"weft","prevResult":{"ips":null}}`,
		`{"cniVersion":"0.3.1","name":"weft","prevResult":{"ips":[{"version":"4","address":"10.0.0.1/8"}]}}`,
		`{"cniVersion":"1.1.0","name":"weft","runtimeConfig":{"ips":["1.1.1.1"],"mac":"02:00:00:00:00:00","portMappings":[{"hostPort":1,"containerPort":2}],"bandwidth":{},"dns":{}}}`,
		`{"cniVersion":"1.1.0","name":"weft","args":{"cni":{"labels":{"a":"b"},"ips":["::1"]}},"cni.dev/attachments":[{}]}`,
	} {
		f.Add([]byte(s), "IgnoreUnknown=1;K8S_POD_NAME=p")
	}
	f.Fuzz(func(t *testing.T, stdin []byte, env string) {
		args := &skel.CmdArgs{ContainerID: "c1", IfName: "eth0", Netns: "/n", Args: env, StdinData: stdin}
		coded := func(err error) {
			var e *api.Error
			if err != nil && (!errors.As(err, &e) || e.Code == 0 || e.Msg == "") {
				t.Fatalf("error without code or message: %v", err)
			}
		}
		var c call
		conf, err := c.strict(args)
		coded(err)
		if err != nil {
			return
		}
		_, err = conf.validAttachments()
		coded(err)
		a, err := conf.attach(args)
		coded(err)
		if err == nil && a.Validate() != nil {
			t.Errorf("request is not valid: %v", a.Validate())
		}
	})
}
