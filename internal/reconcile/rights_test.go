package reconcile

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

const rbacList = `{"kind":"List","apiVersion":"v1","items":[
{"kind":"ClusterRole","metadata":{"name":"ops"},"aggregationRule":{},"rules":[{"verbs":["list","get"],"apiGroups":["","apps"],"resources":["pods","deployments/scale"],"resourceNames":["web"]},{"verbs":["get"],"nonResourceURLs":["/metrics"]}]},
{"kind":"Role","metadata":{"name":"ops","namespace":"shop"},"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]},
{"kind":"ClusterRoleBinding","metadata":{"name":"all"},"roleRef":{"kind":"ClusterRole","name":"ops"},"subjects":[{"kind":"User","name":"a"},{"kind":"ServiceAccount","name":"b","namespace":"ci"}]},
{"kind":"RoleBinding","metadata":{"name":"one","namespace":"shop"},"roleRef":{"kind":"ClusterRole","name":"ops"},"subjects":[{"kind":"Group","name":"g"}]},
{"kind":"RoleBinding","metadata":{"name":"own","namespace":"shop"},"roleRef":{"kind":"Role","name":"ops"},"subjects":[{"kind":"Group","name":"g"}]},
{"kind":"RoleBinding","metadata":{"name":"elsewhere","namespace":"web"},"roleRef":{"kind":"Role","name":"ops"},"subjects":[{"kind":"Group","name":"g"}]}]}`

func TestRulesAreToldOfEachSubject(t *testing.T) {
	b, err := Rights(Input{Source: "kubectl", Data: []byte(rbacList)}, "exhibit")
	if err != nil {
		t.Fatal(err)
	}
	var rows []evidence.RightRow
	if err := evidence.DecodeBody(b.Data, &rows); err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, r := range rows {
		got += fmt.Sprintln(r.Kind, r.Subject, r.Namespace, r.Verbs, r.Resources, r.Names, r.Paths, r.By)
	}
	const scale = "[deployments.apps/scale deployments/scale pods pods.apps] [web]"
	if want := "User a  [get list] " + scale + " [] ClusterRoleBinding/all ClusterRole/ops\n" +
		"User a  [get] [] [] [/metrics] ClusterRoleBinding/all ClusterRole/ops\n" +
		"ServiceAccount ci/b  [get list] " + scale + " [] ClusterRoleBinding/all ClusterRole/ops\n" +
		"ServiceAccount ci/b  [get] [] [] [/metrics] ClusterRoleBinding/all ClusterRole/ops\n" +
		"Group g shop [get list] " + scale + " [] RoleBinding/one ClusterRole/ops\n" + // paths count for nothing in a namespace
		"Group g shop [*] [*.*] [] [] RoleBinding/own Role/ops\n"; got != want { // and a role of another namespace neither
		t.Errorf("rules\n%swant\n%s", got, want)
	}
	if b.Rows != 6 || b.Kept != 6 || b.Params["account"] != "exhibit" {
		t.Errorf("%d roles and bindings, %d rules, %v", b.Rows, b.Kept, b.Params)
	}
}

func TestWhatHasNoRoles(t *testing.T) {
	for text, want := range map[string]string{
		"{}":                          `a "", want a List`,
		`{"kind":"List","items":[]}`:  "0 roles and 0 bindings",
		rbacList[:len(rbacList)-2]:    "the file ends in the middle",
		`{"kind":"List","items":[1]}`: "line 1, column 25",
		strings.Replace(rbacList, `"kind":"Role",`, `"kind":"Pod",`, 1): `item 2 is a "Pod"`,
	} {
		if _, err := Rights(Input{Data: []byte(text)}, ""); !errors.Is(err, ErrInput) || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		}
	}
}
