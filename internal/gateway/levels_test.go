package gateway

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/pack/packtest"
	"github.com/exhibit-gateway/exhibit/verify"
)

// Everything that is sealed leaves the gateway only encrypted, for a purpose, on
// record; and each part of it is held against its head. At L0 nothing of a body
// leaves.
func TestLevelsOfDisclosure(t *testing.T) {
	w := newWorld(t)
	auditor, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	c, start := w.open()
	w.secretly(c, "select 'quince-4711'")
	w.end(c, start)
	gone, goneStart := w.open()
	erased := w.secretly(gone, "select 'forgotten'")
	w.end(gone, goneStart)
	if err := w.sealer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.keys.Shred(goneStart.Boot, gone.Key()); err != nil {
		t.Fatal(err)
	}
	make := func(r api.PackRequest) (*bytes.Buffer, error) {
		r.From = api.Moment{Time: time.Now().Add(-time.Hour)}
		var b bytes.Buffer
		_, err := w.CreatePack(t.Context(), r, packtest.Alice, &b, func(api.Progress) {})
		return &b, err
	}
	exports := w.count(evidence.PackExport)
	for name, r := range map[string]api.PackRequest{
		"no recipient": {Level: verify.Full, Purpose: "audit"},
		"no purpose":   {Level: verify.Full, Recipient: auditor.Recipient().String()},
		"none":         {Level: verify.Full, Purpose: "audit", Recipient: "me"},
	} {
		if b, err := make(r); problemStatus(err) == 0 || b.Len() > 0 {
			t.Errorf("%s: %d bytes, %v", name, b.Len(), err)
		}
	}
	if n := w.count(evidence.PackExport); n != exports {
		t.Errorf("%d exports of what was refused", n-exports)
	}
	trust, err := verify.NewTrustFile(w.keyInForce(w.sealer.Status().Blocks)).Trust()
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []string{verify.Heads, verify.Bodies, verify.Full} {
		b, err := make(api.PackRequest{Level: level, Purpose: "audit", Recipient: auditor.Recipient().String()})
		if err != nil {
			t.Fatal(level, err)
		}
		plain, err := age.Decrypt(b, auditor)
		if err != nil {
			t.Fatal(level, err)
		}
		pack, err := io.ReadAll(plain)
		if err != nil {
			t.Fatal(level, err)
		}
		z, err := verify.OpenZip(bytes.NewReader(pack), int64(len(pack)))
		if err != nil {
			t.Fatal(level, err)
		}
		r, err := verify.Pack(z, trust)
		if err != nil {
			t.Fatal(level, err)
		}
		for _, check := range r.Checks {
			if check.Kind == verify.Integrity && check.Failed > 0 && check.ID != "decision.replay" { // nobody decided these commands
				t.Errorf("%s: %s: %v", level, check.ID, check.Exceptions)
			}
			if tested := check.State == "pass"; check.ID == "record.sealed" && tested != (level == verify.Full) {
				t.Errorf("%s: %s is %s", level, check.ID, check.State)
			}
		}
		f, err := z.Open(verify.SealedFile)
		if (err == nil) != (level == verify.Full) {
			t.Errorf("%s: %s: %v", level, verify.SealedFile, err)
		}
		if err != nil {
			continue
		}
		text, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(statements(t, text), " "); got != "select 'quince-4711'" {
			t.Errorf("it has the statements %q", got)
		}
		if !strings.Contains(string(text), `{"pos":"`+erased.String()+`","absent":"erased"}`) {
			t.Error("the erased part is not said to be")
		}
	}
}
