// Package deploy installs Weft in a cluster, removes it, and tells how it is.
//
// The Helm chart in chart/ is the one source of what is installed: the manifest
// weft.yaml and what `weft install` applies are made from its templates, which use only
// what this package knows of Helm's functions. A test with Helm itself compares.
package deploy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"
)

//go:embed all:chart
var chart embed.FS

// DefaultNamespace is where the manifest puts Weft: pods of the priority
// system-node-critical are at home there.
const DefaultNamespace = "kube-system"

// Object is one object to be applied.
type Object struct {
	APIVersion string
	Kind       string
	Namespace  string // empty for what belongs to no namespace
	Name       string
	YAML       []byte // with comments
}

func (o Object) String() string {
	if o.Namespace == "" {
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}

// JSON is the object as one sends it.
func (o Object) JSON() ([]byte, error) { return yaml.YAMLToJSONStrict(o.YAML) }

// kinds is the order in which objects are made: what is referred to comes first. They
// are removed in reverse.
var kinds = []string{
	"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Lease", "Role", "RoleBinding",
	"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ConfigMap", "DaemonSet",
}

// Render makes the objects for these settings, in the order in which to apply them.
func Render(v Values, namespace string) ([]Object, error) {
	t, err := templates()
	if err != nil {
		return nil, err
	}
	data := map[string]any{"Values": v, "Release": map[string]any{"Namespace": namespace}}
	var objects []Object
	for _, file := range t.Templates() {
		if !strings.HasSuffix(file.Name(), ".yaml") {
			continue
		}
		var out bytes.Buffer
		if err := file.Execute(&out, data); err != nil {
			return nil, fmt.Errorf("render %s: %w", file.Name(), err)
		}
		for part := range strings.SplitSeq("\n"+out.String(), "\n---\n") {
			o, err := parseObject([]byte(strings.Trim(part, "\n") + "\n"))
			if err != nil {
				return nil, fmt.Errorf("render %s: %w", file.Name(), err)
			}
			objects = append(objects, o)
		}
	}
	slices.SortFunc(objects, func(a, b Object) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), cmp.Compare(a.Name, b.Name))
	})
	return objects, nil
}

func parseObject(text []byte) (Object, error) {
	b, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return Object{}, fmt.Errorf("parse YAML: %w", err)
	}
	var head struct {
		APIVersion string
		Kind       string
		Metadata   struct{ Name, Namespace string }
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return Object{}, fmt.Errorf("parse object: %w", err)
	}
	if !slices.Contains(kinds, head.Kind) || head.Metadata.Name == "" {
		return Object{}, fmt.Errorf("object of kind %q with name %q is not to be applied", head.Kind, head.Metadata.Name)
	}
	return Object{
		APIVersion: head.APIVersion, Kind: head.Kind, Namespace: head.Metadata.Namespace, Name: head.Metadata.Name, YAML: text,
	}, nil
}

// templates parses the chart's templates, with what they use of Helm's functions.
func templates() (*template.Template, error) {
	t := template.New("").Option("missingkey=error")
	t.Funcs(template.FuncMap{
		"include": func(name string, data any) (string, error) {
			var b strings.Builder
			err := t.ExecuteTemplate(&b, name, data)
			return b.String(), err
		},
		"indent": func(spaces int, text string) string {
			pad := strings.Repeat(" ", spaces)
			return pad + strings.ReplaceAll(text, "\n", "\n"+pad)
		},
		"int": func(v any) int {
			n, _ := v.(float64) // Values has numbers in no other form
			return int(n)
		},
		"quote": func(v any) string { return fmt.Sprintf("%q", v) },
		"sha256sum": func(text string) string {
			sum := sha256.Sum256([]byte(text))
			return hex.EncodeToString(sum[:])
		},
	})
	files, err := fs.Glob(chart, "chart/templates/*")
	if err != nil {
		return nil, fmt.Errorf("list templates: %w", err)
	}
	for _, file := range files {
		text, err := chart.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read template: %w", err)
		}
		if _, err := t.New(path.Base(file)).Parse(string(text)); err != nil {
			return nil, fmt.Errorf("parse template: %w", err)
		}
	}
	return t, nil
}

// Manifest is the objects as one file.
func Manifest(objects []Object) []byte {
	var b bytes.Buffer
	for i, o := range objects {
		if i > 0 {
			b.WriteString("---\n")
		}
		b.Write(o.YAML)
	}
	return b.Bytes()
}

// head begins the file weft.yaml.
const head = `# Weft, with the default settings: kubectl apply -f weft.yaml
#
# Made from deploy/chart by "make manifest": change the chart, not this file. Settings
# and how to change them are in docs/install.md.
`

// Generated is the files that are made from the chart and kept beside it, by their paths
// in this folder.
func Generated() (map[string][]byte, error) {
	objects, err := Render(Defaults(), DefaultNamespace)
	if err != nil {
		return nil, err
	}
	schema, err := Schema()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		"weft.yaml":                append([]byte(head), Manifest(objects)...),
		"chart/values.schema.json": schema,
	}, nil
}
