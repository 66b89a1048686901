package verify_test

import (
	"testing"

	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Every check of a verifier stands behind a control, and those that controls
// name are checks that it makes.
func TestEveryCheckIsInTheMatrix(t *testing.T) {
	g := finish(packtest.Shop())
	r, err := verify.Pack(openZip(t, create(t, g, at(0), at(3600))), trust(t, g))
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]bool)
	for _, c := range workpaper.Controls() {
		for _, id := range c.Checks {
			named[id] = true
		}
	}
	for _, c := range r.Checks {
		if c.Kind == verify.Integrity && !named[c.ID] {
			t.Errorf("check %s stands behind no control (workpaper/matrix_catalogue.go)", c.ID)
		}
		delete(named, c.ID)
	}
	for id := range named {
		t.Errorf("a control names check %s, which the verifier doesn't make", id)
	}
}
