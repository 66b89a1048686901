package workpaper

import (
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// More than is held is let go of, and the next import has nothing to be held
// against: that is said, and not taken for a change.
func TestConfigurationsAreHeldWithinABound(t *testing.T) {
	s := newUpstreamConfigs()
	s.most = 2 * configOverhead
	at := evidence.Position{Gateway: "gw", Boot: 1, Seq: 1}
	small, large := []evidence.ConfigRow{{Key: "a"}}, []evidence.ConfigRow{{Key: "a"}, {Key: "b"}}
	var c configSection
	s.hold(&c, at, small)
	if c.at != at || s.bytes != configSize(small) || s.unheld != 0 {
		t.Errorf("%+v of %+v is held", c, s)
	}
	s.hold(&c, at, large)
	if !c.at.IsZero() || c.rows != nil || s.bytes != 0 || s.unheld != 1 {
		t.Errorf("%+v of %+v is held", c, s)
	}
}
