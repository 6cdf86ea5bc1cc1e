package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// Setting is one line of the chart's values.yaml.
type Setting struct {
	Name    string
	Doc     string
	Default any // string, bool or float64, as JSON has them
}

// Daemon is the name of weftd's setting of the same meaning; empty for those of the
// Pods. Names differ in style only: nodeportAddresses, nodeport-addresses.
func (s Setting) Daemon() string {
	if slices.Contains(podSettings, s.Name) {
		return ""
	}
	var b strings.Builder
	for _, r := range s.Name {
		if 'A' <= r && r <= 'Z' {
			b.WriteByte('-')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// podSettings are those that are no settings of weftd.
var podSettings = []string{"image"}

// Settings returns the settings in the order of values.yaml.
func Settings() []Setting {
	text, err := chart.ReadFile("chart/values.yaml")
	if err != nil {
		panic(err) // embedded
	}
	list, err := parseSettings(text)
	if err != nil {
		panic(err) // embedded, and tested
	}
	return list
}

// parseSettings reads a file in which each setting is one line of comment and one line
// of `name: value`.
func parseSettings(text []byte) ([]Setting, error) {
	values := Values{}
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	var list []Setting
	doc := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if comment, ok := strings.CutPrefix(line, "# "); ok {
			doc = comment
			continue
		}
		name, _, _ := strings.Cut(line, ":")
		if v, ok := values[name]; ok {
			list = append(list, Setting{Name: name, Doc: doc, Default: v})
			delete(values, name)
		}
		doc = ""
	}
	if len(values) > 0 {
		return nil, fmt.Errorf("read settings: %v are not on lines of their own", slices.Sorted(maps.Keys(values)))
	}
	return list, nil
}

// Values are settings by name, as a template gets them.
type Values map[string]any

// Defaults returns what holds where nothing is set.
func Defaults() Values {
	v := Values{}
	for _, s := range Settings() {
		v[s.Name] = s.Default
	}
	return v
}

// Set takes one assignment as in `--set port=4789`. The value must have the form of the
// default's. weftd says whether it makes sense.
func (v Values) Set(assignment string) error {
	name, text, ok := strings.Cut(assignment, "=")
	if !ok {
		return fmt.Errorf("--set %s: want NAME=VALUE", assignment)
	}
	switch now := v[name].(type) {
	case string:
		v[name] = text
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("--set %s: want true or false", assignment)
		}
		v[name] = b
	case float64:
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return fmt.Errorf("--set %s: want a number in 0…%d", assignment, uint32(math.MaxUint32))
		}
		v[name] = float64(n)
	case nil:
		return fmt.Errorf("--set %s: there is no setting %q; there are %s", assignment, name,
			strings.Join(slices.Sorted(maps.Keys(v)), ", "))
	default:
		return fmt.Errorf("--set %s: the default has the form %T", assignment, now)
	}
	return nil
}

// Schema is the JSON schema of the chart's values: by it Helm refuses a name that it
// does not know, or a value of another form.
func Schema() ([]byte, error) {
	properties := map[string]any{"global": map[string]any{"type": "object", "description": "Helm's own"}}
	for _, s := range Settings() {
		form := "string"
		switch s.Default.(type) {
		case string:
		case bool:
			form = "boolean"
		case float64:
			form = "integer"
		default:
			return nil, errors.New("describe settings: " + s.Name + " is neither text, number nor truth")
		}
		properties[s.Name] = map[string]any{"type": form, "description": s.Doc, "default": s.Default}
	}
	b, err := json.MarshalIndent(map[string]any{
		"$schema": "http://json-schema.org/draft-07/schema#", "title": "Settings of Weft",
		"type": "object", "additionalProperties": false, "properties": properties,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("describe settings: %w", err)
	}
	return append(b, '\n'), nil
}
