package deploy

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// FieldManager is the name under which the API server knows what we applied.
const FieldManager = "weft"

// plurals is the names of kinds in paths.
var plurals = map[string]string{
	"ServiceAccount": "serviceaccounts", "ConfigMap": "configmaps", "DaemonSet": "daemonsets", "Pod": "pods",
	"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings",
	"Lease": "leases", "Role": "roles", "RoleBinding": "rolebindings",
	"ValidatingAdmissionPolicy":        "validatingadmissionpolicies",
	"ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}

// path is where an object is.
func (o Object) path() (string, error) {
	plural, ok := plurals[o.Kind]
	if !ok {
		return "", fmt.Errorf("%s: kind without a path", o)
	}
	root := "/apis/" + o.APIVersion
	if o.APIVersion == "v1" {
		root = "/api/v1"
	}
	if o.Namespace != "" {
		root += "/namespaces/" + o.Namespace
	}
	return root + "/" + plural + "/" + o.Name, nil
}

// apply makes an object so, whether it exists or not (server-side apply). With force,
// fields that others have set otherwise are taken over.
func (c *Cluster) apply(ctx context.Context, o Object, force bool) error {
	path, err := o.path()
	if err != nil {
		return err
	}
	body, err := o.JSON()
	if err != nil {
		return fmt.Errorf("apply %s: %w", o, err)
	}
	query := url.Values{"fieldManager": {FieldManager}, "fieldValidation": {"Strict"}}
	if force {
		query.Set("force", "true")
	}
	err = c.call(ctx, request{method: http.MethodPatch, path: path, query: query, body: body, form: "application/apply-patch+yaml"}, nil)
	if apierrors.IsNotFound(err) && o.Namespace != "" {
		return fmt.Errorf("apply %s: %w: does the namespace exist?", o, err)
	}
	if err != nil {
		return fmt.Errorf("apply %s: %w", o, explain(err))
	}
	return nil
}

// delete removes an object; one that is not there is no error.
func (c *Cluster) delete(ctx context.Context, o Object) error {
	path, err := o.path()
	if err != nil {
		return err
	}
	err = c.call(ctx, request{method: http.MethodDelete, path: path, query: url.Values{"propagationPolicy": {"Background"}}}, nil)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove %s: %w", o, explain(err))
	}
	return nil
}
