package workpaper_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// What a cluster lets agents, the gateway and others do, beside a policy by which
// the agent may only read.
func TestWhatAClusterLetsAnAgentDo(t *testing.T) {
	right := func(kind, subject, verbs, resources string, more ...string) evidence.RightRow {
		return evidence.RightRow{Kind: kind, Subject: subject, Verbs: strings.Fields(verbs), Resources: strings.Fields(resources), Names: more, By: "b r"}
	}
	agents := right("User", "exhibit", "impersonate", "users", "exhibit:billing-bot")
	reads := right("Group", "exhibit:agents", "get list watch", "pods deployments.apps")
	for _, c := range []struct {
		what string
		rows []evidence.RightRow
		want workpaper.State
		says string // of an exception, or the note
	}{
		{"nothing", nil, workpaper.Pass, ""},
		{"reading", []evidence.RightRow{agents, reads}, workpaper.Pass, ""},
		{"asking what it may do", []evidence.RightRow{agents, right("Group", "system:authenticated", "create", "selfsubjectaccessreviews.authorization.k8s.io")}, workpaper.Pass, ""},
		{"reading secrets", []evidence.RightRow{agents, right("Group", "exhibit:agents", "get", "secrets")}, workpaper.Fail, "lets it, as Group exhibit:agents, get secrets"},
		{"all of the core group", []evidence.RightRow{agents, right("Group", "exhibit:agents", "get", "*")}, workpaper.Fail, "get *"},
		{"programs in pods", []evidence.RightRow{agents, right("User", "exhibit:billing-bot", "create", "pods/*")}, workpaper.Fail, "as User exhibit:billing-bot, create pods/*"},
		{"a verb of its own", []evidence.RightRow{agents, right("Group", "exhibit:agents", "approve", "signers.certificates.k8s.io")}, workpaper.Fail, "approve signers"},
		{"writing, by another agent", []evidence.RightRow{agents, right("User", "exhibit:other", "delete", "pods")}, workpaper.Pass, ""},
		{"an account that may ask for anybody", []evidence.RightRow{right("User", "exhibit", "impersonate", "users groups")}, workpaper.Fail, "through the account exhibit, which may itself impersonate users,groups"},
		{"an account that reads", []evidence.RightRow{agents, right("User", "exhibit", "get", "pods")}, workpaper.Fail, "which may itself get pods"},
		{"an account that reads roles", []evidence.RightRow{agents, right("User", "exhibit", "get list", "roles.rbac.authorization.k8s.io")}, workpaper.Pass, ""},
		{"somebody beside the gateway", []evidence.RightRow{agents, right("User", "ops", "*", "*.*"), right("User", "ops", "delete", "pods"), right("User", "auditor", "get", "pods")}, workpaper.Pass,
			"1 subjects of clusters can do more than read without the gateway"},
	} {
		g, s := packtest.Cluster()
		resources := g.Registry.Resources()
		resources[1].Protocol = "postgres" // whose actions the policy is about
		g.Own(evidence.ConfigChange, evidence.ConfigBody{Digest: "config-rights", Before: g.Registry.Config(), Text: "rights\n", By: packtest.Alice, Resources: resources})
		g.Import(evidence.ImportRights, "prod", append([]evidence.RightRow{}, c.rows...), len(c.rows))
		s.Close()
		g.Beat()
		tables, sum := fold(t, g, evidence.Position{})
		b := test(t, sum, "import.privileges")
		text := b.Note
		for _, e := range b.Exceptions {
			text += e.Text
		}
		if b.State != c.want || !strings.Contains(text, c.says) || c.says == "" && text != "" {
			t.Errorf("%s: %s, %q; want %s, %q", c.what, b.State, text, c.want, c.says)
		}
		if n := len(tables["upstream_rights"].Rows); n != len(c.rows) {
			t.Errorf("%s: %d rows", c.what, n)
		}
		access := sum.Listings[1]
		if c.what == "reading" && !slices.ContainsFunc(access.Rows, func(row []string) bool {
			return slices.Contains(row, "exhibit:billing-bot") && slices.Contains(row, "get,list,watch pods,deployments.apps")
		}) {
			t.Errorf("the listing: %q", access.Rows)
		}
	}
}
