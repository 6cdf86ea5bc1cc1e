package deploy

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/weftnet/weft/daemon"
)

// table is the rows of the first table below a heading of a page.
func table(t *testing.T, page, heading string) [][]string {
	t.Helper()
	b, err := os.ReadFile(page)
	must(t, err)
	_, text, ok := strings.Cut(string(b), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", page, heading)
	}
	var rows [][]string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			if len(rows) > 0 {
				break
			}
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 {
		t.Fatalf("%s has no table below %q", page, heading)
	}
	return rows[2:]
}

const installPage = "../docs/install.md"

// One list of settings, each of one line, at most twenty: in the chart and in the docs.
func TestSettingsAreDocumented(t *testing.T) {
	settings := Settings()
	if len(settings) > 20 {
		t.Errorf("there are %d settings, more than 20", len(settings))
	}
	var want [][]string
	for _, s := range settings {
		if s.Doc == "" {
			t.Errorf("%s has no documentation in values.yaml", s.Name)
		}
		value := fmt.Sprint(s.Default)
		if value != "" {
			value = "`" + value + "`"
		}
		want = append(want, []string{"`" + s.Name + "`", value, s.Doc})
	}
	if diff := gocmp.Diff(want, table(t, installPage, "## Settings")); diff != "" {
		t.Errorf("docs/install.md (-values.yaml +docs):\n%s", diff)
	}
}

func TestEveryRightIsDocumented(t *testing.T) {
	role := decode[rbacv1.ClusterRole](t, object(t, Defaults(), "ClusterRole"))
	rights := map[string][]string{}
	own := decode[rbacv1.Role](t, object(t, Defaults(), "Role"))
	for _, r := range append(role.Rules, own.Rules...) {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				if slices.Contains(append(r.Verbs, group, resource), "*") || len(r.NonResourceURLs) > 0 {
					t.Errorf("rule %+v is not about one thing", r)
				}
				key := cmp.Or(group, "(core)") + " " + resource
				rights[key] = append(rights[key], r.Verbs...)
			}
		}
	}
	for key := range rights {
		slices.Sort(rights[key])
	}
	for _, where := range []struct{ page, heading string }{{installPage, "## Rights"}, {"../docs/ARCHITECTURE.md", "## API access"}} {
		documented := map[string][]string{}
		for _, row := range table(t, where.page, where.heading) {
			if row[3] == "" {
				t.Errorf("%s: %v: the reason is missing", where.page, row)
			}
			key := row[0] + " " + row[1]
			documented[key] = append(documented[key], strings.Split(row[2], ", ")...)
			slices.Sort(documented[key])
		}
		if diff := gocmp.Diff(rights, documented); diff != "" {
			t.Errorf("rights (-ClusterRole +%s):\n%s", where.page, diff)
		}
	}
}

func TestEveryCapabilityIsDocumented(t *testing.T) {
	ds := decode[appsv1.DaemonSet](t, object(t, Defaults(), "DaemonSet"))
	var documented []corev1.Capability
	for _, row := range table(t, installPage, "### Capabilities") {
		documented = append(documented, corev1.Capability(strings.Trim(row[0], "`")))
		if row[1] == "" {
			t.Errorf("%s: the reason is missing", row[0])
		}
	}
	if diff := gocmp.Diff(ds.Spec.Template.Spec.Containers[0].SecurityContext.Capabilities.Add, documented); diff != "" {
		t.Errorf("capabilities (-DaemonSet +docs):\n%s", diff)
	}
}

// Each folder that is mounted is in the docs, and no other.
func TestEveryFolderIsDocumented(t *testing.T) {
	ds := decode[appsv1.DaemonSet](t, object(t, Defaults(), "DaemonSet"))
	var mounted, documented []string
	for _, v := range ds.Spec.Template.Spec.Volumes {
		if v.HostPath != nil && v.Name != "proc" { // that is in the text
			mounted = append(mounted, v.HostPath.Path)
		}
	}
	for _, row := range table(t, installPage, "## What runs on a node") {
		for i, part := range strings.Split(row[0], "`") {
			if i%2 == 1 {
				documented = append(documented, part)
			}
		}
	}
	slices.Sort(mounted)
	slices.Sort(documented)
	if diff := gocmp.Diff(mounted, documented); diff != "" {
		t.Errorf("folders (-DaemonSet +docs):\n%s", diff)
	}
}

// weftd knows each setting by its name, and takes the file that is made of them.
func TestSettingsAreThoseOfTheDaemon(t *testing.T) {
	load := func(assignments ...string) error {
		v := Defaults()
		for _, a := range assignments {
			must(t, v.Set(a))
		}
		path := filepath.Join(t.TempDir(), "weftd.yaml")
		must(t, os.WriteFile(path, []byte(decode[corev1.ConfigMap](t, object(t, v, "ConfigMap")).Data["weftd.yaml"]), 0o600))
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		c := daemon.Settings(flags)
		c.NodeName = "a"
		return daemon.Load(flags, c, path, false)
	}
	must(t, load())
	must(t, load("kubeletKubeconfig=", "apiServers=10.0.0.1:6443,[fd00::1]:6443", "healthPort=0", "services=false", "maxPods=1048576",
		`cniChain=[{"type": "tuning", "sysctl": {"net.core.somaxconn": "512"}}]`))
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	daemon.Settings(flags)
	for _, s := range Settings() {
		if name := s.Daemon(); name != "" && flags.Lookup(name) == nil {
			t.Errorf("%s: weftd has no setting %s", s.Name, name)
		}
	}
	if err := load("port=70000"); err == nil {
		t.Error("weftd takes what it should not: the test proves nothing")
	}
}

func TestSettingsOfTheChartAreThoseOfTheConfigMap(t *testing.T) {
	var file map[string]any
	must(t, yaml.UnmarshalStrict([]byte(decode[corev1.ConfigMap](t, object(t, Defaults(), "ConfigMap")).Data["weftd.yaml"]), &file))
	want := map[string]any{"source": "kube"}
	for _, s := range Settings() {
		if name := s.Daemon(); name != "" {
			want[name] = s.Default
		}
	}
	if diff := gocmp.Diff(want, file); diff != "" {
		t.Errorf("ConfigMap (-settings +ConfigMap):\n%s", diff)
	}
}
