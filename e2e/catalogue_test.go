package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/ledger"
)

// records reads the records of a type from the archive.
func (w *world) records(of evidence.Type) (list []evidence.Record) {
	w.t.Helper()
	w.ok(filepath.WalkDir(w.path("data/archive"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".block") {
			return err
		}
		file, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b, err := ledger.ParseBlock(file)
		if err != nil {
			return err
		}
		for _, r := range b.Records {
			if r.Head.Type == of {
				list = append(list, r)
			}
		}
		return nil
	}))
	return list
}

// TestTheCatalogueIsOnRecord: what texts are understood by is recorded with its
// source, its query and its digest, and again once it has changed, also behind
// the gateway's back.
func TestTheCatalogueIsOnRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	snapshots := func() (digests []string) {
		w.passes() // and so everything is sealed
		for _, r := range w.records(evidence.ImportSnapshot) {
			var b evidence.ImportBody
			w.ok(evidence.DecodeBody(r.Body, &b))
			if b.Kind != "postgres.catalogue" || r.Head.Resource != "orders" || b.Source == "" || b.Query == "" || b.Digest == "" || b.Rows == 0 || len(b.Data) == 0 {
				t.Errorf("a snapshot of %s from %q by %q: %d rows, digest %q", r.Head.Resource, b.Source, b.Query, b.Rows, b.Digest)
			}
			digests = append(digests, b.Digest)
		}
		return digests
	}
	c := w.connect()
	ask := func() {
		_, err := c.Exec(t.Context(), "select count(*) from t")
		w.ok(err)
	}
	ask()
	ask()
	if got := snapshots(); len(got) != 1 {
		t.Fatalf("%d snapshots of one state", len(got))
	}
	w.ok(w.db.Exec(t.Context(), "orders", "set role app", "create view v as select id from t"))
	w.until(60*time.Second, "the new view is on record", func() bool {
		ask()
		got := snapshots()
		return len(got) == 2 && got[0] != got[1]
	})
	if data := string(w.records(evidence.ImportSnapshot)[1].Body); !strings.Contains(data, `"v"`) {
		t.Error("the view isn't in the newer snapshot")
	}
}
