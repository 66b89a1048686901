package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// image is the only segment of a journal that was killed after each of its three
// frames had been synced by itself, and the places where they end.
func image(t *testing.T) (*memory, string, []LSN) {
	t.Helper()
	d, dir := newMemory(), t.TempDir()
	j := mustOpen(t, dir, with(small, d))
	var ends []LSN
	for i := range 3 {
		lsn, err := j.Append(payload(i, 40))
		if err == nil {
			err = j.Wait(lsn, Synced)
		}
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, lsn)
	}
	return d.killed(), dir, ends
}

func (d *memory) segment(t testing.TB) *memoryFile {
	t.Helper()
	names := slices.DeleteFunc(slices.Collect(func(yield func(string) bool) {
		for name := range d.files {
			if !yield(name) {
				return
			}
		}
	}), func(name string) bool { return !strings.HasSuffix(name, segmentSuffix) })
	if len(names) == 0 {
		t.Fatal("no segment")
	}
	return d.files[slices.Max(names)]
}

func TestTornTailIsCutAtEveryByte(t *testing.T) {
	before, dir, ends := image(t)
	for at := ends[1]; at < ends[2]; at++ {
		for name, tear := range map[string]func(b []byte) []byte{
			"file ends": func(b []byte) []byte { return b[:segmentHead+at] },
			"zeros":     func(b []byte) []byte { clear(b[segmentHead+at:]); return b },
			"a bit":     func(b []byte) []byte { b[segmentHead+at] ^= 0x10; return b },
			"lost page": func(b []byte) []byte { clear(b[segmentHead+at : segmentHead+at+1]); return b },
		} {
			d := before.killed()
			f := d.segment(t)
			whole := bytes.Clone(f.data)
			f.data = tear(f.data)
			if bytes.Equal(f.data, whole) {
				continue
			}
			j, _, err := crashed(t, d, dir, small)
			if err != nil {
				t.Fatalf("%s at byte %d of the last frame: %v", name, at-ends[1], err)
			}
			r := j.Recovered()
			if j.End() != ends[1] || r.Frames != 2 || r.Offset != int64(segmentHead+ends[1]) && r.Cut > 0 {
				t.Errorf("%s at byte %d of the last frame: ended at %d, want %d; %+v", name, at-ends[1], j.End(), ends[1], r)
			}
			// What comes next stands where the torn frame stood, with nothing behind.
			if err := j.Wait(mustAppend(t, j, "next"), Synced); err != nil {
				t.Fatal(err)
			}
			if got := contents(t, j); len(got) != 3 || string(got[2]) != "next" {
				t.Errorf("%s at byte %d: then %d frames", name, at-ends[1], len(got))
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			if rest := d.segment(t).data[j.active.offset(j.End()):]; len(bytes.Trim(rest, "\x00")) > 0 || int64(len(rest)) != j.room {
				t.Errorf("%s at byte %d: the rest of the segment is not zeros to its end", name, at-ends[1])
			}
		}
	}
}

func TestDamageToWhatWasSyncedIsRefusedAtEveryByte(t *testing.T) {
	before, dir, ends := image(t)
	starts := []LSN{0, ends[0]}
	for i, start := range starts {
		for at := start; at < ends[i]; at++ {
			d := before.killed()
			d.segment(t).data[segmentHead+at] ^= 0x10
			_, _, err := crashed(t, d, dir, small)
			var damage *CorruptError
			if !errors.As(err, &damage) {
				t.Fatalf("byte %d of frame %d: %v, want a CorruptError", at-start, i, err)
			}
			if damage.LSN != start || damage.Offset != int64(segmentHead+start) || damage.Segment != segmentName(0) {
				t.Errorf("byte %d of frame %d: %v, want LSN %d", at-start, i, damage, start)
			}
		}
	}
}

func TestDamageToTheHeaderIsRefused(t *testing.T) {
	before, dir, _ := image(t)
	for at := range segmentHead {
		d := before.killed()
		d.segment(t).data[at] ^= 1
		var damage *CorruptError
		if _, _, err := crashed(t, d, dir, small); !errors.As(err, &damage) {
			t.Fatalf("byte %d: %v, want a CorruptError", at, err)
		}
	}
}

// After a clean Close the state file vouches for the last frame too.
func TestDamageAfterACleanCloseIsRefused(t *testing.T) {
	d, dir := newMemory(), t.TempDir()
	j := mustOpen(t, dir, with(small, d))
	end := mustAppend(t, j, "only")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for name, harm := range map[string]func(d *memory){
		"a bit":              func(d *memory) { d.segment(t).data[segmentHead+end-1] ^= 1 },
		"the file is cut":    func(d *memory) { f := d.segment(t); f.data = f.data[:segmentHead] },
		"an older copy":      func(d *memory) { clear(d.segment(t).data[segmentHead:]) },
		"the segment's gone": func(d *memory) { delete(d.files, segmentName(0)) },
	} {
		after := d.killed()
		harm(after)
		if _, _, err := crashed(t, after, dir, small); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	if j, _, err := crashed(t, d.killed(), dir, small); err != nil {
		t.Error(err)
	} else if err := j.Close(); err != nil {
		t.Error(err)
	}
}

func TestStateFileSurvivesATornWrite(t *testing.T) {
	dir := t.TempDir()
	for want := range LSN(6) {
		s, err := openState(dir)
		if err != nil {
			t.Fatal(err)
		}
		if floor, err := s.floor(); err != nil || want > 0 && floor != want-1 {
			t.Errorf("floor %d, %v; want %d", floor, err, want-1)
		}
		if err := s.setFloor(want); err != nil {
			t.Fatal(err)
		}
		turn := s.turn
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, stateName)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		torn := bytes.Clone(whole)
		torn[turn%2*slotGap+9] ^= 0xff
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err = openState(dir)
		if err != nil {
			t.Fatal(err)
		}
		floor, err := s.floor()
		if want == 0 && err == nil || want > 0 && (err != nil || floor != want-1) {
			t.Errorf("after a torn write of %d: floor %d, %v", want, floor, err)
		}
		if err := errors.Join(s.Close(), os.WriteFile(path, whole, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAGapBetweenSegmentsIsRefused(t *testing.T) {
	d, dir := newMemory(), t.TempDir()
	j := mustOpen(t, dir, with(small, d))
	if _, err := workload(j, 60); err != nil {
		t.Fatal(err)
	}
	after := d.killed()
	middle := j.segments[1] // its frames fill most of it
	delete(after.files, middle.name)
	var damage *CorruptError
	if _, _, err := crashed(t, after, dir, small); !errors.As(err, &damage) || damage.Segment != segmentName(0) {
		t.Errorf("without %s: %v, want a CorruptError", middle.name, err)
	}
	after = d.killed()
	after.files[middle.name].data[middle.size/2] ^= 1
	if _, _, err := crashed(t, after, dir, small); !errors.As(err, &damage) || damage.Segment != middle.name {
		t.Errorf("with a changed %s: %v, want a CorruptError", middle.name, err)
	}
	// A copy under another name is not taken for that segment.
	after = d.killed()
	after.files[middle.name] = after.files[segmentName(0)]
	if _, _, err := crashed(t, after, dir, small); !errors.As(err, &damage) || damage.Segment != middle.name {
		t.Errorf("with a copy as %s: %v, want a CorruptError", middle.name, err)
	}
}

// A page in the middle of what was never synced may be missing after a power
// loss while later ones are there. That is no damage.
func TestHolesInWhatWasNeverSyncedAreCut(t *testing.T) {
	d, dir := newMemory(), t.TempDir()
	j := mustOpen(t, dir, with(small, d))
	var ends []LSN
	for i := range 5 {
		lsn, err := j.Append(payload(i, 40))
		if err == nil {
			err = j.Wait(lsn, Written)
		}
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, lsn)
	}
	after := d.killed()
	clear(after.segment(t).data[segmentHead+ends[0] : segmentHead+ends[1]])
	j2, _, err := crashed(t, after, dir, small)
	if err != nil {
		t.Fatal(err)
	}
	defer j2.Close()
	if r := j2.Recovered(); j2.End() != ends[0] || r.Lost != 3 || r.Cut != int64(ends[4]-ends[0]) {
		t.Errorf("ended at %d, want %d; %+v", j2.End(), ends[0], r)
	}
}

// Whatever is appended, waited for, read and released, and however it crashes:
// the journal holds what a list would, up to what was promised at least.
func TestJournalIsAList(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{t: t, d: newMemory(), dir: t.TempDir()}
		var err error
		if m.j, err = Open(m.dir, with(small, m.d)); err != nil {
			rt.Fatal(err)
		}
		defer func() { m.j.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"append":  m.append,
			"wait":    m.wait,
			"release": m.release,
			"reopen":  m.reopen,
			"kill":    func(rt *rapid.T) { m.crash(rt, m.d.killed(), m.promised[Written]) },
			"unplug": func(rt *rapid.T) {
				r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
				share := rapid.IntRange(0, 10).Draw(rt, "share")
				m.crash(rt, m.d.unplugged(func() bool { return r.IntN(10) < share }), m.promised[Synced])
			},
			"": m.check,
		})
	})
}

type model struct {
	t        *testing.T
	d        *memory
	dir      string
	j        *Journal
	n        int
	frames   []modelFrame // in the journal, as far as is known
	promised [2]LSN
}

type modelFrame struct {
	end     LSN
	payload []byte
}

func (m *model) append(rt *rapid.T) {
	var group [][]byte
	for _, size := range rapid.SliceOfN(rapid.IntRange(9, 900), 1, 4).Draw(rt, "sizes") {
		group = append(group, payload(m.n, size))
		m.n++
	}
	end := m.j.End()
	lsn, err := m.j.Append(group...)
	if err != nil {
		rt.Fatal(err)
	}
	for _, p := range group {
		end += LSN(frameHead + len(p))
		m.frames = append(m.frames, modelFrame{end, p})
	}
	if lsn != end {
		rt.Fatalf("Append returned %d, want %d", lsn, end)
	}
}

func (m *model) wait(rt *rapid.T) {
	if len(m.frames) == 0 {
		return
	}
	level := rapid.SampledFrom([]Level{Written, Synced}).Draw(rt, "level")
	lsn := rapid.SampledFrom(m.frames).Draw(rt, "frame").end
	if err := m.j.Wait(lsn, level); err != nil {
		rt.Fatal(err)
	}
	for l := range level + 1 {
		m.promised[l] = max(m.promised[l], lsn)
	}
	if level == Synced && m.j.SyncedTo() < lsn {
		rt.Fatalf("synced to %d only, after waiting for %d", m.j.SyncedTo(), lsn)
	}
}

func (m *model) release(rt *rapid.T) {
	i := rapid.IntRange(0, len(m.frames)).Draw(rt, "frame")
	if i == len(m.frames) || m.frames[i].end > m.j.SyncedTo() {
		return
	}
	before := m.frames[i].end
	if err := m.j.Release(before); err != nil {
		rt.Fatal(err)
	}
	first := m.j.First()
	if first > before {
		rt.Fatalf("released up to %d, asked for %d", first, before)
	}
	m.frames = slices.DeleteFunc(m.frames, func(f modelFrame) bool { return f.end <= first })
}

func (m *model) reopen(rt *rapid.T) {
	end := m.j.End()
	if err := m.j.Close(); err != nil {
		rt.Fatal(err)
	}
	var err error
	if m.j, err = Open(m.dir, with(small, m.d)); err != nil {
		rt.Fatal(err)
	}
	if m.j.End() != end || m.j.Recovered().Cut != 0 {
		rt.Fatalf("closed at %d, opened at %d, %+v", end, m.j.End(), m.j.Recovered())
	}
	m.promised = [2]LSN{end, end}
}

func (m *model) crash(rt *rapid.T, after *memory, promised LSN) {
	j, dir, err := crashed(m.t, after, m.dir, small)
	if err != nil {
		rt.Fatal(err)
	}
	if err := m.j.Close(); err != nil { // its files are no longer looked at
		rt.Fatal(err)
	}
	m.j, m.d, m.dir = j, after, dir
	end := j.End()
	if end < promised {
		rt.Fatalf("%d is there after the crash, %d was promised", end, promised)
	}
	m.frames = slices.DeleteFunc(m.frames, func(f modelFrame) bool { return f.end > end })
	m.promised = [2]LSN{end, end}
}

func (m *model) check(rt *rapid.T) {
	synced, first := m.j.SyncedTo(), m.j.First()
	next, i := first, 0
	got, err := m.j.Read(first, func(end LSN, p []byte) error {
		if i == len(m.frames) || end != m.frames[i].end || !bytes.Equal(p, m.frames[i].payload) {
			return fmt.Errorf("frame %d ends at %d with %.9q", i, end, p)
		}
		next = end
		i++
		return nil
	})
	if err != nil {
		rt.Fatal(err)
	}
	if got != next || got < synced {
		rt.Fatalf("read up to %d, last frame ends at %d, synced to %d", got, next, synced)
	}
}

// FuzzRecover opens a segment with any content: it is refused as damaged, or it
// opens, goes on, and opens again to the same.
func FuzzRecover(f *testing.F) {
	d := newMemory()
	j, err := Open(f.TempDir(), with(small, d))
	if err != nil {
		f.Fatal(err)
	}
	if _, err := workload(j, 6); err != nil {
		f.Fatal(err)
	}
	seed := bytes.Clone(d.segment(f).data[segmentHead:j.active.offset(j.End())])
	if err := j.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:len(seed)-7])
	f.Add(append(bytes.Clone(seed), 0, 0, 0, 0, 9, 9, 9, 9, 9))
	holed := bytes.Clone(seed)
	clear(holed[100:400])
	f.Add(holed)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		if int64(len(content)) > small.SegmentBytes-segmentHead {
			return
		}
		d, dir := newMemory(), t.TempDir()
		s := &segment{name: "1.spare", size: small.SegmentBytes}
		file, err := d.create(s.name)
		if err != nil {
			t.Fatal(err)
		}
		s.f = file
		if err := s.begin(d, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(content, segmentHead); err != nil {
			t.Fatal(err)
		}
		j, err := Open(dir, with(small, d))
		var damage *CorruptError
		if errors.As(err, &damage) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		had := contents(t, j)
		if err := j.Wait(mustAppend(t, j, "next"), Synced); err != nil {
			t.Fatal(err)
		}
		end := j.End()
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if j, err = Open(dir, with(small, d)); err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		if got := contents(t, j); len(got) != len(had)+1 || j.End() != end || j.Recovered().Cut != 0 {
			t.Errorf("%d frames to %d, then %d to %d, %+v", len(had), end, len(got), j.End(), j.Recovered())
		}
	})
}

// Recovery of a large torn write must not take ages, whatever bytes it is of.
func TestSearchOfALongTailIsQuick(t *testing.T) {
	b := make([]byte, 4<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(b); i += 4 {
		binary.LittleEndian.PutUint32(b[i:], r.Uint32())
	}
	start := time.Now()
	if n, _ := search(b, 1<<20); n > 0 {
		t.Errorf("found %d frames in noise", n)
	}
	clear(b) // and the worst that one could write: every place looks like the head of a long frame
	for i := 0; i+12 < len(b); i += 4 {
		binary.LittleEndian.PutUint32(b[i:], 1<<19)
	}
	if n, _ := search(b, 1<<20); n > 0 {
		t.Errorf("found %d frames in noise", n)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("took %v", took)
	}
}
