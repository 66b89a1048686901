package decision

import (
	"testing"

	"github.com/cedar-policy/cedar-go"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// A rule that means what is in a namespace must not miss a pod with a dot in its
// name.
func TestWhatAnObjectIsCalled(t *testing.T) {
	for _, c := range []struct{ protocol, object, schema, name string }{
		{"postgres", "public.orders", "public", "orders"},
		{"postgres", "orders", "", "orders"},
		{"kubernetes", "pods/kube-system/etcd-10.0.0.1", "", "pods/kube-system/etcd-10.0.0.1"},
		{"kubernetes", "deployments.apps/shop/web", "", "deployments.apps/shop/web"},
	} {
		r := evidence.Resource{Name: "r", Protocol: c.protocol}
		e := object(&resourceState{Resource: r, entity: cedar.Entity{UID: resourceUID("r"), Attributes: resourceAttributes(r)}}, c.object)
		text := func(attribute cedar.String) string {
			v, _ := e.Attributes.Get(attribute)
			s, _ := v.(cedar.String)
			return string(s)
		}
		if text("schema") != c.schema || text("name") != c.name {
			t.Errorf("%s of %s: schema %q, name %q", c.object, c.protocol, text("schema"), text("name"))
		}
	}
}
