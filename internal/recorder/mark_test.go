package recorder

import (
	"bytes"
	"errors"
	"testing"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// history is a boot in which sessions come and go, with commands that are open
// here and there, and some that count.
func history(t *testing.T) []evidence.Record {
	t.Helper()
	r, st := newRecorder(t, 1)
	hour := 1795400000 / 3600 * hourMicros
	var chains []*Chain
	for i := range 6 {
		c := sessionOf(t, r)
		chains = append(chains, c)
		for j := range int64(4) {
			d := command("simple", []string{"read", "write"}[j%2], hour+int64(i)*hourMicros/2)
			mustRecord(t, c, d)
			if j != 2 {
				mustRecord(t, c, &evidence.Draft{Head: evidence.Head{Type: evidence.CommandResult, Of: d.Head.Pos, Outcome: evidence.OK}})
			}
		}
		if i%3 == 2 {
			mustRecord(t, chains[i-1], &evidence.Draft{Head: evidence.Head{Type: evidence.SessionEnd, Of: chains[i-1].session}})
		}
	}
	mustRecord(t, r.Own(), &evidence.Draft{Head: evidence.Head{Type: evidence.GatewayStop}, Body: []byte(`{}`)})
	return r.journal.(*tape).records(t, st)
}

func folded(t *testing.T, m *Mark, records []evidence.Record) *Mark {
	t.Helper()
	for i := range records {
		if err := m.Add(&records[i]); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// Wherever a mark is kept, going on from it is as good as having read it all.
func TestAMarkIsWhatWasReadUpToIt(t *testing.T) {
	records := history(t)
	want := folded(t, &Mark{}, records).Encode()
	for i := 1; i < len(records); i++ {
		m, err := DecodeMark(folded(t, &Mark{}, records[:i]).Encode())
		if err != nil {
			t.Fatal(err)
		}
		if !m.At(&records[i-1]) || m.At(&records[i]) {
			t.Fatalf("a mark after %d records doesn't know where it stands", i)
		}
		kept := m.Clone()
		from := max(0, i-3) // some that it has had
		if got := folded(t, m, records[from:]).Encode(); !bytes.Equal(got, want) {
			t.Fatalf("from record %d on it is\n%s\nwant\n%s", i, got, want)
		}
		if got := folded(t, kept, records[i:]).Encode(); !bytes.Equal(got, want) {
			t.Fatalf("what happens to a mark happens to its clone: after %d", i)
		}
	}
	m, err := DecodeMark(want)
	if err != nil || m.Past.Open() == 0 || !m.Past.Clean || len(m.Past.Doubtful()) == 0 {
		t.Fatalf("of sessions that are open it says %d, %v", m.Past.Open(), err)
	}
}

func TestAMarkThatIsOfNoUseSaysSo(t *testing.T) {
	records := history(t)
	m := folded(t, &Mark{}, records[:5])
	whole := m.Encode()
	for n := range whole {
		if _, err := DecodeMark(whole[:n]); !errors.Is(err, errMark) {
			t.Fatalf("%d bytes of %d: %v", n, len(whole), err)
		}
	}
	for _, at := range []int{0, 70, len(whole) - 2} {
		bad := bytes.Clone(whole)
		bad[at] ^= 1
		if _, err := DecodeMark(bad); !errors.Is(err, errMark) {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
	other := records[4]
	other.HeadBytes = append(bytes.Clone(other.HeadBytes), ' ')
	if m.At(&other) {
		t.Error("a record with other bytes is taken for its own")
	}
	if err := m.Add(&records[6]); !errors.Is(err, errMark) {
		t.Errorf("a record that doesn't follow: %v", err)
	}
	if err := m.Add(&records[5]); !errors.Is(err, errMark) || m.Encode() != nil {
		t.Errorf("with a hole it goes on: %v", err)
	}
	if (&Mark{}).Encode() != nil {
		t.Error("there is a mark of no record")
	}
}
