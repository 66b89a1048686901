package decision

import (
	"crypto/sha256"
	"encoding/base64"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

const (
	second = int64(1_000_000) // microseconds
	hour   = 3600 * second
	noon   = 1_800_000_000 * second
)

var alice = evidence.By{Person: evidence.Person{ID: "alice@example.com"}, Via: "unix peer uid 1000"}

var testActions = map[string][]string{
	"postgres:select": {"read"}, "postgres:insert": {"write"}, "postgres:delete": {"write"},
	"postgres:drop": {"admin"}, "postgres:do": {"opaque"}, "postgres:connect": {"connect"},
	"read": {"any"}, "write": {"any"}, "kubernetes:exec": {"admin"},
}

// book is a registry being written: each call is one more control record.
type book struct {
	t   testing.TB
	r   *Registry
	now int64
	seq uint64
}

func newBook(t testing.TB) *book { return &book{t: t, r: New(), now: noon} }

func (b *book) try(typ evidence.Type, body any) error {
	b.t.Helper()
	b.seq++
	h := evidence.Head{Type: typ, Time: b.now, Pos: evidence.Position{Gateway: "gw1", Boot: 1, Seq: b.seq}}
	next, err := b.r.Apply(h, evidence.EncodeBody(body))
	if err == nil {
		b.r = next
	}
	return err
}

// do applies a record and returns its position as text.
func (b *book) do(typ evidence.Type, body any) string {
	b.t.Helper()
	if err := b.try(typ, body); err != nil {
		b.t.Fatal(err)
	}
	return evidence.Position{Gateway: "gw1", Boot: 1, Seq: b.seq}.String()
}

func (b *book) agent(id string) {
	b.t.Helper()
	b.do(evidence.AgentCreate, agentBody(id))
}

func (b *book) grant(agent, role, resource string, expires int64) string {
	b.t.Helper()
	return b.do(evidence.GrantCreate, evidence.GrantBody{Agent: agent, Role: role, Resource: resource, Expires: expires, By: alice})
}

func (b *book) policy(texts ...string) {
	b.t.Helper()
	b.do(evidence.PolicyChange, policyBody(b.r, texts...))
}

func (b *book) resources(names ...string) {
	b.t.Helper()
	b.do(evidence.ConfigChange, configBody(b.r, names...))
}

func agentBody(id string) evidence.AgentBody {
	return evidence.AgentBody{Agent: id, Purpose: "tests", Owner: alice.Person, By: alice}
}

func policyBody(r *Registry, texts ...string) evidence.PolicyBody {
	files := testFiles(texts...)
	return evidence.PolicyBody{Files: files, Actions: testActions, Digest: Digest(files, testActions), Before: r.Policy(), By: alice}
}

func testFiles(texts ...string) []evidence.File {
	var files []evidence.File
	for i, text := range texts {
		files = append(files, evidence.File{Name: string(rune('a'+i)) + ".cedar", Text: text})
	}
	return files
}

func configBody(r *Registry, names ...string) evidence.ConfigBody {
	c := evidence.ConfigBody{Digest: "digest of " + r.Config(), Before: r.Config(), By: alice}
	for _, name := range names {
		c.Resources = append(c.Resources, evidence.Resource{Name: name, Protocol: "postgres", Labels: map[string]string{"env": "prod"}})
	}
	return c
}

// keyBody enrolls a made-up key.
func keyBody(id, agent, seed string) evidence.CredentialBody {
	public := sha256.Sum256([]byte(seed))
	x := base64.RawURLEncoding.EncodeToString(public[:])
	thumbprint, err := Thumbprint(x)
	if err != nil {
		panic(err)
	}
	return evidence.CredentialBody{ID: id, Agent: agent, Kind: "key", PublicKey: x, NotBefore: noon, NotAfter: noon + hour,
		Thumbprint: thumbprint, By: alice}
}

func ask(agent, resource, action, object string) Request {
	return Request{Agent: agent, Resource: resource, Time: noon, Checks: []evidence.Check{{Action: action, Object: object}}}
}

const readerPolicy = `
@id("reader")
permit (principal in Role::"reader", action in [Action::"read", Action::"connect"], resource);
`

const writerPolicy = `
@id("writer")
@hint("present a ticket when you ask for a token")
permit (principal in Role::"writer", action in Action::"write", resource)
when { context has ticket && context.ticket != "" };

@id("bounded")
@description("an UPDATE or DELETE says which rows")
@hint("add a WHERE clause")
forbid (principal, action == Action::"postgres:delete", resource)
unless { context has bounded && context.bounded };
`

// shop has one database, one reader and one writer.
func shop(t testing.TB) *book {
	b := newBook(t)
	b.resources("orders-db", "hr-db")
	b.policy(readerPolicy, writerPolicy)
	b.agent("billing-bot")
	return b
}
