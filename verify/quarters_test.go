package verify_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
)

// halfYear is a log from January to August of 2027, over the ends of two
// quarters. A grant stands from January until May.
func halfYear() *packtest.Gateway {
	g := packtest.New()
	g.Boot()
	g.Organise("billing-bot", "reader")
	grant := g.Own(evidence.GrantCreate, evidence.GrantBody{Agent: "billing-bot", Role: "reader", Resource: "orders", Ticket: "OPS-2", Expires: g.Now + 300*24*packtest.Hour, By: packtest.Alice})
	later(g, 106) // the first of May
	g.Own(evidence.GrantRemove, evidence.RevokeBody{ID: grant.String(), Reason: "over", By: packtest.Alice})
	later(g, 92) // August
	return finish(g, nil)
}

// Who could do what is listed as of the end of each quarter in the period, made
// again by the verifier, and has a tab of its own.
func TestAccessIsListedAtTheEndsOfQuarters(t *testing.T) {
	g := halfYear()
	b := create(t, g, at(0), at(40_000_000))
	r, err := verify.Pack(openZip(t, b), trust(t, g))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Failed() {
		if c.Kind == verify.Integrity {
			t.Errorf("%s: %v", c.ID, c.Exceptions)
		}
	}
	u := unpack(t, b)
	var names []string
	for name := range u {
		if strings.HasPrefix(name, "listings/") && strings.HasSuffix(name, ".csv") {
			names = append(names, strings.TrimSuffix(strings.TrimPrefix(name, "listings/access@"), ".csv"))
		}
	}
	slices.Sort(names)
	if want := []string{"2027-Q1", "2027-Q2", "closing", "opening"}; !slices.Equal(names, want) {
		t.Errorf("the listings are %q, want %q", names, want)
	}
	for name, rows := range map[string]bool{"2027-Q1": true, "2027-Q2": false} {
		if has := bytes.Contains(u["listings/access@"+name+".csv"], []byte("billing-bot,")); has != rows {
			t.Errorf("%s lists the grant: %v", name, has)
		}
	}
	u["listings/access@2027-Q1.csv"] = u["listings/access@2027-Q2.csv"]
	u.resign(t, g, nil)
	forged, err := verify.Pack(openZip(t, u.zip(t)), trust(t, g))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, forged, "pack.tables")
}
