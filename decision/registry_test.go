package decision

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

const seed = "a key"

// TestThumbprint is RFC 8037 appendix A.3.
func TestThumbprint(t *testing.T) {
	got, err := Thumbprint("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	if want := "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"; err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	for _, bad := range []string{"", "11qY", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURp", "+1qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"} {
		if _, err := Thumbprint(bad); err == nil {
			t.Errorf("%q is no key", bad)
		}
	}
}

func TestApplyRefuses(t *testing.T) {
	body := func(change func(*evidence.AgentBody)) evidence.AgentBody {
		b := agentBody("new-bot")
		change(&b)
		return b
	}
	grant := func(change func(*evidence.GrantBody)) evidence.GrantBody {
		g := evidence.GrantBody{Agent: "billing-bot", Role: "reader", Resource: "orders-db", Expires: noon + hour, By: alice}
		change(&g)
		return g
	}
	key := func(change func(*evidence.CredentialBody)) evidence.CredentialBody {
		c := keyBody("key-2", "billing-bot", "another key")
		change(&c)
		return c
	}
	for _, tc := range []struct {
		name string
		typ  evidence.Type
		body any
		err  error
		says string
	}{
		{"an id that can't stand in a head", evidence.AgentCreate, body(func(b *evidence.AgentBody) { b.Agent = "new bot" }), ErrInvalid, `"new bot"`},
		{"an id used before", evidence.AgentCreate, agentBody("billing-bot"), ErrDuplicate, "billing-bot"},
		{"an id of a retired agent", evidence.AgentCreate, agentBody("old-bot"), ErrDuplicate, "never used twice"},
		{"an agent without owner", evidence.AgentCreate, body(func(b *evidence.AgentBody) { b.Owner.ID = "" }), ErrInvalid, "owner"},
		{"an agent without purpose", evidence.AgentCreate, body(func(b *evidence.AgentBody) { b.Purpose = "" }), ErrInvalid, "purpose"},
		{"an agent that expired before", evidence.AgentCreate, body(func(b *evidence.AgentBody) { b.Expires = noon }), ErrInvalid, "expires"},
		{"an agent that nobody registered", evidence.AgentCreate, body(func(b *evidence.AgentBody) { b.By = evidence.By{Via: "gateway"} }), ErrInvalid, "no person"},
		{"retiring nobody", evidence.AgentDisable, evidence.DisableBody{Agent: "ghost", By: alice}, ErrUnknown, "ghost"},
		{"retiring twice", evidence.AgentDisable, evidence.DisableBody{Agent: "old-bot", By: alice}, ErrRetired, "gw1.1."},
		{"a grant to nobody", evidence.GrantCreate, grant(func(g *evidence.GrantBody) { g.Agent = "ghost" }), ErrUnknown, "ghost"},
		{"a grant to a retired agent", evidence.GrantCreate, grant(func(g *evidence.GrantBody) { g.Agent = "old-bot" }), ErrRetired, "old-bot"},
		{"a grant of no role", evidence.GrantCreate, grant(func(g *evidence.GrantBody) { g.Role = "root" }), ErrUnknown, "the policy has reader, writer"},
		{"a grant on nothing", evidence.GrantCreate, grant(func(g *evidence.GrantBody) { g.Resource = "x" }), ErrUnknown, "the configuration has hr-db, orders-db"},
		{"a grant that is over", evidence.GrantCreate, grant(func(g *evidence.GrantBody) { g.Expires = noon }), ErrInvalid, "expires"},
		{"a grant without end", evidence.GrantCreate, grant(func(g *evidence.GrantBody) { g.Expires = 0 }), ErrInvalid, "expires"},
		{"a grant nobody made", evidence.GrantCreate, grant(func(g *evidence.GrantBody) { g.By = evidence.By{} }), ErrInvalid, "no person"},
		{"removing no grant", evidence.GrantRemove, evidence.RevokeBody{ID: "gw1.1.999", By: alice}, ErrUnknown, "gw1.1.999"},
		{"a key of nobody", evidence.CredentialEnroll, key(func(c *evidence.CredentialBody) { c.Agent = "ghost" }), ErrUnknown, "ghost"},
		{"a key with an id used before", evidence.CredentialEnroll, key(func(c *evidence.CredentialBody) { c.ID = "key-1" }), ErrDuplicate, "key-1"},
		{"a key enrolled before", evidence.CredentialEnroll, keyBody("key-2", "idle-bot", seed), ErrDuplicate, "for billing-bot"},
		{"a key that isn't its thumbprint's", evidence.CredentialEnroll, key(func(c *evidence.CredentialBody) { c.PublicKey = keyBody("", "", seed).PublicKey }), ErrInvalid, "thumbprint"},
		{"a key that is over", evidence.CredentialEnroll, key(func(c *evidence.CredentialBody) { c.NotAfter = noon }), ErrInvalid, "ends"},
		{"a key that is no key", evidence.CredentialEnroll, key(func(c *evidence.CredentialBody) { c.PublicKey = "x" }), ErrInvalid, "32 bytes"},
		{"enrolling a token", evidence.CredentialEnroll, key(func(c *evidence.CredentialBody) { c.Kind = "token" }), ErrInvalid, "token"},
		{"a key named like a token", evidence.CredentialEnroll, key(func(c *evidence.CredentialBody) { c.ID = TokenPrefix + "1" }), ErrInvalid, TokenPrefix},
		{"revoking no credential", evidence.CredentialRevoke, evidence.RevokeBody{ID: "key-9", By: alice}, ErrUnknown, "key-9"},
		{"a policy made for an older one", evidence.PolicyChange, policyBody(New(), readerPolicy), ErrStale, "in force"},
		{"a configuration made for an older one", evidence.ConfigChange, configBody(New(), "orders-db"), ErrStale, "in force"},
		{"a body with an unknown field", evidence.AgentDisable, map[string]string{"agent": "billing-bot", "why": "x"}, evidence.ErrBody, "why"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := shop(t)
			b.agent("old-bot")
			b.agent("idle-bot")
			b.do(evidence.AgentDisable, evidence.DisableBody{Agent: "old-bot", Reason: "done", By: alice})
			b.do(evidence.CredentialEnroll, keyBody("key-1", "billing-bot", seed))
			err := b.try(tc.typ, tc.body)
			if !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.says) || !strings.HasPrefix(err.Error(), string(tc.typ)) {
				t.Errorf("got %v, want %v saying %q", err, tc.err, tc.says)
			}
		})
	}
}

func TestApplyRefusesBundlesAndResources(t *testing.T) {
	b := shop(t)
	wrong := policyBody(b.r, readerPolicy)
	wrong.Digest = policyBody(b.r, writerPolicy).Digest
	if err := b.try(evidence.PolicyChange, wrong); !errors.Is(err, ErrInvalid) {
		t.Errorf("a digest of other files: %v", err)
	}
	if err := b.try(evidence.PolicyChange, policyBody(b.r, "permit (principal, action, resource);")); !errors.Is(err, ErrPolicy) {
		t.Errorf("a bundle that doesn't load: %v", err)
	}
	for name, want := range map[string]error{"a/b": ErrInvalid, "": ErrInvalid, `a"b`: ErrInvalid, "twice": ErrDuplicate} {
		if err := b.try(evidence.ConfigChange, configBody(b.r, "twice", name)); !errors.Is(err, want) {
			t.Errorf("resource %q: %v", name, err)
		}
	}
}

func TestAHeadMayNotNameSomebodyElse(t *testing.T) {
	b := shop(t)
	pos := evidence.Position{Gateway: "gw1", Boot: 1, Seq: 99}
	g := evidence.EncodeBody(evidence.GrantBody{Agent: "billing-bot", Role: "reader", Resource: "orders-db", Expires: noon + hour, By: alice})
	for _, h := range []evidence.Head{
		{Pos: pos, Type: evidence.GrantCreate, Time: noon, Agent: "other-bot"},
		{Pos: pos, Type: evidence.GrantCreate, Time: noon, Resource: "hr-db"},
		{Type: evidence.GrantCreate, Time: noon},
	} {
		if _, err := b.r.Apply(h, g); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", h, err)
		}
	}
	h := evidence.Head{Pos: pos, Type: evidence.GrantCreate, Time: noon, Agent: "billing-bot", Resource: "orders-db"}
	next, err := b.r.Apply(h, g)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := next.Apply(h, g); !errors.Is(err, ErrDuplicate) {
		t.Errorf("one record twice: %v", err)
	}
}

func TestSnapshotsNeverChange(t *testing.T) {
	b := shop(t)
	before := b.r
	q := ask("billing-bot", "orders-db", "postgres:select", "t")
	id := b.grant("billing-bot", "reader", "orders-db", noon+hour)
	granted := b.r
	b.do(evidence.GrantRemove, evidence.RevokeBody{ID: id, Reason: "done", By: alice})
	removed := b.r
	b.do(evidence.AgentDisable, evidence.DisableBody{Agent: "billing-bot", Reason: "done", By: alice})
	for i, tc := range []struct {
		r    *Registry
		want evidence.Effect
	}{{before, evidence.Deny}, {granted, evidence.Allow}, {removed, evidence.Deny}, {granted, evidence.Allow}} {
		if d := tc.r.Decide(q); d.Effect != tc.want {
			t.Errorf("snapshot %d: %+v", i, d)
		}
	}
	if a, _ := removed.Agent("billing-bot"); !a.Disabled.IsZero() {
		t.Error("an older snapshot knows of a later retirement")
	}
}

func TestListingsHoldEverythingThatEverWas(t *testing.T) {
	b := shop(t)
	id := b.grant("billing-bot", "reader", "orders-db", noon+hour)
	b.do(evidence.CredentialEnroll, keyBody("key-1", "billing-bot", seed))
	b.now += second
	b.do(evidence.CredentialRevoke, evidence.RevokeBody{ID: "key-1", Reason: "rotated", By: alice})
	b.do(evidence.CredentialRevoke, evidence.RevokeBody{ID: TokenPrefix + "7", Reason: "leaked", By: alice})
	b.do(evidence.GrantRemove, evidence.RevokeBody{ID: id, Reason: "done", By: alice})
	b.do(evidence.AgentDisable, evidence.DisableBody{Agent: "billing-bot", Reason: "project over", By: alice})

	if a, ok := b.r.Agent("billing-bot"); !ok || a.DisabledFor != "project over" || a.DisabledAt != noon+second || a.CreatedAt != noon || a.Active(noon) {
		t.Errorf("agent %+v", a)
	}
	if gs := b.r.Grants(); len(gs) != 1 || gs[0].ID != id || gs[0].RemovedBy != alice || gs[0].Active(noon) {
		t.Errorf("grants %+v", gs)
	}
	cs := b.r.Credentials()
	if len(cs) != 2 || cs[0].ID != "key-1" || cs[0].RevokedFor != "rotated" || cs[1].Kind != "token" || cs[0].Active(noon) {
		t.Errorf("credentials %+v", cs)
	}
	if k, ok := b.r.Key(cs[0].Thumbprint); !ok || k.Revoked.IsZero() {
		t.Errorf("key %+v", k)
	}
	if !b.r.Revoked("key-1") || !b.r.Revoked(TokenPrefix+"7") || b.r.Revoked("key-2") {
		t.Error("Revoked knows what was revoked, and nothing else")
	}
	if err := b.try(evidence.CredentialRevoke, evidence.RevokeBody{ID: TokenPrefix + "7", By: alice}); !errors.Is(err, ErrRetired) {
		t.Errorf("revoking a token twice: %v", err)
	}
	names := []string{}
	for _, r := range b.r.Resources() {
		names = append(names, r.Name)
	}
	if !slices.Equal(names, []string{"hr-db", "orders-db"}) {
		t.Errorf("resources %v", names)
	}
}

func TestOtherRecordsChangeNothing(t *testing.T) {
	b := shop(t)
	next, err := b.r.Apply(evidence.Head{Type: evidence.CommandIntent}, []byte("not even JSON"))
	if err != nil || next != b.r {
		t.Errorf("got %v, %v", next, err)
	}
}
