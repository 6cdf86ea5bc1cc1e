package charttest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"helm.sh/helm/v4/pkg/strvals"
	"sigs.k8s.io/yaml"

	"github.com/weftnet/weft/deploy"
)

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.LoadDir("../chart")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// helm renders the chart as `helm template --set …` does. The values are as YAML has
// them.
func helm(c *chart.Chart, namespace, values string) (map[string]any, error) {
	set := map[string]any{}
	if err := yaml.Unmarshal([]byte(values), &set); err != nil {
		return nil, err
	}
	v, err := util.ToRenderValues(c, set, common.ReleaseOptions{Name: "net", Namespace: namespace, IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, v)
	if err != nil {
		return nil, err
	}
	objects := map[string]any{}
	for _, text := range files {
		for part := range strings.SplitSeq("\n"+text, "\n---\n") {
			if err := add(objects, []byte(part)); err != nil {
				return nil, err
			}
		}
	}
	return objects, nil
}

// add decodes an object and puts it in under its kind and name. Text without an object,
// as a file of definitions leaves it, is none.
func add(objects map[string]any, text []byte) error {
	var o map[string]any
	if err := yaml.UnmarshalStrict(text, &o); err != nil {
		return fmt.Errorf("%w in:\n%s", err, text)
	}
	if o == nil {
		return nil
	}
	name := fmt.Sprintf("%v %v", o["kind"], o["metadata"].(map[string]any)["name"])
	if _, ok := objects[name]; ok {
		return fmt.Errorf("%s is there twice", name)
	}
	objects[name] = o
	return nil
}

// own renders with package deploy.
func own(t *testing.T, namespace string, v deploy.Values) map[string]any {
	t.Helper()
	list, err := deploy.Render(v, namespace)
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]any{}
	for _, o := range list {
		if err := add(objects, o.YAML); err != nil {
			t.Fatal(err)
		}
	}
	return objects
}

// another is a value that is not the default.
func another(s deploy.Setting) (yaml string, text string) {
	switch v := s.Default.(type) {
	case bool:
		return fmt.Sprint(!v), fmt.Sprint(!v)
	case float64:
		return "1048576", "1048576" // which fmt would write as 1.048576e+06
	}
	const odd = `x "y" \ : {{ z }} # é`
	b, err := json.Marshal(odd)
	if err != nil {
		panic(err) // text
	}
	return string(b), odd
}

// Helm and weft install make the same objects, whatever is set.
func TestHelmRendersTheChartAsWeDo(t *testing.T) {
	c := load(t)
	got, err := helm(c, deploy.DefaultNamespace, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 14 {
		t.Errorf("Helm makes %d objects, want 14", len(got))
	}
	usual := own(t, deploy.DefaultNamespace, deploy.Defaults())
	if diff := cmp.Diff(usual, got); diff != "" {
		t.Errorf("with the defaults (-own +Helm's):\n%s", diff)
	}
	for _, s := range deploy.Settings() {
		t.Run(s.Name, func(t *testing.T) {
			inYAML, text := another(s)
			v := deploy.Defaults()
			if err := v.Set(s.Name + "=" + text); err != nil {
				t.Fatal(err)
			}
			got, err := helm(c, "elsewhere", s.Name+": "+inYAML)
			if err != nil {
				t.Fatal(err)
			}
			want := own(t, "elsewhere", v)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-own +Helm's):\n%s", diff)
			}
			if cmp.Equal(own(t, "elsewhere", deploy.Defaults()), want) {
				t.Error("the setting changes nothing")
			}
		})
	}
	// What is empty or zero leaves things out.
	v := deploy.Defaults()
	for _, s := range []string{"healthPort=0", "kubeletKubeconfig="} {
		if err := v.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	got, err = helm(c, deploy.DefaultNamespace, "healthPort: 0\nkubeletKubeconfig: \"\"")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(own(t, deploy.DefaultNamespace, v), got); diff != "" {
		t.Errorf("without port and kubeconfig (-own +Helm's):\n%s", diff)
	}
}

// The schema refuses what would be ignored without it.
// Helm's --set takes commas, brackets and braces for its own; lists are for --set-literal, as
// docs/install.md says, and mean there what they mean to `weft install --set`.
func TestListsAreForHelmsLiteralSettings(t *testing.T) {
	for _, assignment := range []string{
		"apiServers=10.0.0.1:6443,10.0.0.2:6443",
		"nodeportAddresses=192.0.2.0/24,2001:db8::/64",
		`loadBalancerPools=[{"name": "lan", "addresses": ["192.0.2.64/26", "2001:db8::10-2001:db8::1f"]}]`,
		`cniChain=[{"type": "tuning", "sysctl": {"net.core.somaxconn": "512"}}]`,
	} {
		set := map[string]any{}
		if err := strvals.ParseInto(assignment, set); err == nil {
			t.Errorf("--set %s: Helm takes it: say so in the docs", assignment)
		}
		set = map[string]any{}
		if err := strvals.ParseLiteralInto(assignment, set); err != nil {
			t.Fatal(err)
		}
		values, err := yaml.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		got, err := helm(load(t), "net", string(values))
		if err != nil {
			t.Fatal(err)
		}
		v := deploy.Defaults()
		if err := v.Set(assignment); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(own(t, "net", v), got); diff != "" {
			t.Errorf("--set-literal %s (-ours +Helm):\n%s", assignment, diff)
		}
	}
}

func TestHelmRefusesWhatIsNoSetting(t *testing.T) {
	c := load(t)
	for _, values := range []string{"imgae: x", "port: vxlan", "masquerade: 1", "mtu: \"1400\"", "vni: 1.5"} {
		if _, err := helm(c, deploy.DefaultNamespace, values); err == nil {
			t.Errorf("%s: accepted", values)
		}
	}
	if _, err := helm(c, deploy.DefaultNamespace, "global: {x: 1}"); err != nil {
		t.Errorf("as part of another chart: %v", err)
	}
}

func TestChartIsValid(t *testing.T) {
	c := load(t)
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	image, _ := deploy.Defaults()["image"].(string)
	if !strings.HasSuffix(image, ":"+c.Metadata.AppVersion) || c.Metadata.AppVersion != "v"+c.Metadata.Version {
		t.Errorf("image %s, chart %s of Weft %s: want one version", image, c.Metadata.Version, c.Metadata.AppVersion)
	}
}
