package journal

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A tape is what a journal asked of its disk, in order, and what it promised in
// between. From it follows what a power loss can leave at any moment.
//
// The disk of the tape keeps its word on what was synced and nothing else: of
// all other writes each sector is as it was before or after any of them, sizes
// are the old or the new, and of the names the first few changes have happened,
// since the file systems that the journal presumes keep those in order.
type tape struct {
	mu     sync.Mutex
	before files
	ops    []op
	inodes int            // files that there ever were
	names  map[string]int // their numbers
	deaf   bool           // syncs are forgotten, as by a disk that lies
}

type op struct {
	kind     string
	inode    int
	name, to string
	off      int64
	data     []byte // written
	size     int64  // allocated
	promised promise
}

// promise is how many frames were promised to be safe, by level.
type promise [2]int

// files are what a disk holds, by name.
type files map[string][]byte

const sectorSize = 512

func newTape(before files) *tape {
	t := &tape{before: before, inodes: len(before), names: map[string]int{}}
	for i, name := range before.names() {
		t.names[name] = i
	}
	return t
}

func (i files) names() []string { return slices.Sorted(maps.Keys(i)) }

// memory is a directory with what is on the disk.
func (i files) memory() *memory {
	d := newMemory()
	for name, data := range i {
		d.files[name] = &memoryFile{d, name, bytes.Clone(data), bytes.Clone(data)}
	}
	d.kept = maps.Clone(d.files)
	return d
}

func filesOf(d *memory) files {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := files{}
	for name, f := range d.files {
		i[name] = bytes.Clone(f.data)
	}
	return i
}

// options has a journal work on d, its state file too, and be taped.
func options(d *memory, t *tape) Options {
	o := small
	td := tapedDirectory{d, t}
	o.dir = td
	o.state = func(lock file) file {
		f, _, err := td.open(stateName)
		if err != nil {
			f, err = td.create(stateName)
		}
		if err != nil {
			panic(err) // memory has no such failure
		}
		return stateInMemory{f, lock}
	}
	return o
}

// stateInMemory is a state file whose lock alone is a file.
type stateInMemory struct{ file, lock file }

func (s stateInMemory) ReadAt(p []byte, off int64) (int, error)  { return s.file.ReadAt(p, off) }
func (s stateInMemory) WriteAt(p []byte, off int64) (int, error) { return s.file.WriteAt(p, off) }
func (s stateInMemory) Sync() error                              { return s.file.Sync() }
func (s stateInMemory) Allocate(n int64) error                   { return s.file.Allocate(n) }
func (s stateInMemory) Close() error                             { return s.lock.Close() }

// tapedDirectory does what it is asked, and tapes it.
type tapedDirectory struct {
	directory
	t *tape
}

// add does a thing and tapes it as one step, so that the tape's order is that
// of the disk.
func (t *tape) add(o op, do func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := do()
	if err == nil {
		t.ops = append(t.ops, o)
	}
	return err
}

func (d tapedDirectory) create(name string) (f file, err error) {
	d.t.mu.Lock()
	defer d.t.mu.Unlock()
	if f, err = d.directory.create(name); err != nil {
		return nil, err
	}
	inode := d.t.inodes
	d.t.inodes++
	d.t.names[name] = inode
	d.t.ops = append(d.t.ops, op{kind: "create", name: name, inode: inode})
	return &tapedFile{f, d.t, inode}, nil
}

func (d tapedDirectory) open(name string) (file, int64, error) {
	d.t.mu.Lock()
	defer d.t.mu.Unlock()
	f, size, err := d.directory.open(name)
	if err != nil {
		return nil, 0, err
	}
	return &tapedFile{f, d.t, d.t.names[name]}, size, nil
}

func (d tapedDirectory) rename(from, to string) error {
	return d.t.add(op{kind: "rename", name: from, to: to}, func() error {
		d.t.names[to] = d.t.names[from]
		delete(d.t.names, from)
		return d.directory.rename(from, to)
	})
}

func (d tapedDirectory) remove(name string) error {
	return d.t.add(op{kind: "remove", name: name}, func() error { return d.directory.remove(name) })
}

func (d tapedDirectory) sync() error { return d.t.add(op{kind: "syncdir"}, d.directory.sync) }

type tapedFile struct {
	file
	t     *tape
	inode int
}

func (f *tapedFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.t.add(op{kind: "write", inode: f.inode, off: off, data: bytes.Clone(p)}, func() (err error) {
		n, err = f.file.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *tapedFile) Sync() error {
	return f.t.add(op{kind: "sync", inode: f.inode}, f.file.Sync)
}

func (f *tapedFile) Allocate(size int64) error {
	return f.t.add(op{kind: "allocate", inode: f.inode, size: size}, func() error { return f.file.Allocate(size) })
}

// promise tapes what the journal has just promised.
func (t *tape) promise(p promise) {
	_ = t.add(op{kind: "promise", promised: p}, func() error { return nil })
}

// killed is the tape on which the next process goes on when this one ends behind
// the first n steps: what is not synced still isn't.
func (t *tape) killed(n int) *tape {
	next := &tape{before: t.before, ops: slices.Clone(t.ops[:n]), inodes: t.inodes, names: map[string]int{}}
	for i, name := range t.before.names() {
		next.names[name] = i
	}
	rename(next.names, slices.DeleteFunc(slices.Clone(next.ops), func(o op) bool {
		return o.kind != "create" && o.kind != "rename" && o.kind != "remove"
	}))
	return next
}

// inode is a file of the disk, whatever its name.
type inode struct {
	synced   []byte
	unsynced []op
}

// after is what the disk holds when the power fails behind the first n steps.
// Choose is asked for a number below its argument wherever luck decides: 0 is
// the oldest possibility and the last the newest.
func (t *tape) after(n int, choose func(n int) int) (files, promise) {
	inodes, names, promised := map[int]*inode{}, map[string]int{}, promise{}
	for i, name := range t.before.names() {
		inodes[i], names[name] = &inode{synced: t.before[name]}, i
	}
	var renamed []op // and not synced
	for _, o := range t.ops[:n] {
		switch o.kind {
		case "create":
			inodes[o.inode] = &inode{}
			renamed = append(renamed, o)
		case "rename", "remove":
			renamed = append(renamed, o)
		case "syncdir":
			rename(names, renamed)
			renamed = nil
		case "write", "allocate":
			inodes[o.inode].unsynced = append(inodes[o.inode].unsynced, o)
		case "sync":
			if f := inodes[o.inode]; !t.deaf {
				f.synced, f.unsynced = f.torn(func(n int) int { return n - 1 }), nil
			}
		case "promise":
			promised = o.promised
		}
	}
	rename(names, renamed[:choose(len(renamed)+1)])
	disk := files{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		disk[name] = inodes[names[name]].torn(choose)
	}
	return disk, promised
}

func rename(names map[string]int, ops []op) {
	for _, o := range ops {
		switch o.kind {
		case "create":
			names[o.name] = o.inode
		case "rename":
			names[o.to] = names[o.name]
			delete(names, o.name)
		case "remove":
			delete(names, o.name)
		}
	}
}

// torn is the file as luck leaves it.
func (f *inode) torn(choose func(n int) int) []byte {
	size := int64(len(f.synced))
	versions := map[int64][]op{} // that may be there, by sector
	for _, o := range f.unsynced {
		size = max(size, o.size, o.off+int64(len(o.data)))
		for s := o.off / sectorSize; s*sectorSize < o.off+int64(len(o.data)); s++ {
			versions[s] = append(versions[s], o)
		}
	}
	b := make([]byte, size)
	copy(b, f.synced)
	for _, s := range slices.Sorted(maps.Keys(versions)) {
		sector := b[s*sectorSize : min((s+1)*sectorSize, size)]
		for _, o := range versions[s][:choose(len(versions[s])+1)] {
			if from := o.off - s*sectorSize; from >= 0 {
				copy(sector[from:], o.data)
			} else {
				copy(sector, o.data[-from:])
			}
		}
	}
	if size > int64(len(f.synced)) && choose(2) == 0 {
		b = b[:len(f.synced)]
	}
	return b
}

// lucks calls try with ways in which luck may decide: everything has arrived,
// nothing has, all ways if they are few and otherwise some.
func lucks(limit int, r *rand.Rand, try func(choose func(n int) int)) {
	try(func(n int) int { return n - 1 })
	var path, of []int
	for range limit {
		at := 0
		try(func(n int) int {
			if at == len(path) {
				path, of = append(path, 0), append(of, n)
			}
			at++
			return path[at-1]
		})
		last := len(path) - 1
		for ; last >= 0 && path[last] == of[last]-1; last-- {
			path, of = path[:last], of[:last]
		}
		if last < 0 {
			return
		}
		path[last]++
	}
	for range limit {
		share := r.IntN(4)
		try(func(n int) int {
			if r.IntN(4) < share {
				return n - 1
			}
			return r.IntN(n)
		})
	}
}

// frameSize is that of the workload's frame i: some share a sector, some cross
// several.
func frameSize(i int) int { return []int{40, 700, 9, 300, 1300, 120}[i%6] }

// tapedWorkload has a journal do a bit of everything: appends at both levels,
// groups, reserved ones, three segments and more, a release, a stop and another
// start.
func tapedWorkload(t *testing.T) (*tape, int) {
	t.Helper()
	tp, d, dir := newTape(files{}), newMemory(), t.TempDir()
	n, promised := 0, promise{}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put := func(j *Journal, level Level, count int) {
		t.Helper()
		var group [][]byte
		for range count {
			group = append(group, payload(n, frameSize(n)))
			n++
		}
		add := j.Append
		if n%5 == 0 {
			add = j.AppendReserved
		}
		lsn, err := add(group...)
		ok(err)
		ok(j.Wait(lsn, level))
		for l := range level + 1 {
			promised[l] = n
		}
		tp.promise(promised)
	}
	for boot := range 2 {
		j, err := Open(dir, options(d, tp))
		ok(err)
		for i := range 9 {
			put(j, Written, 1)
			put(j, Written, 2)
			if i%2 == boot {
				put(j, Synced, 1)
			}
		}
		ok(j.Release(j.SyncedTo()))
		put(j, Synced, 1)
		ok(j.Close())
		promised[Written], promised[Synced] = n, n
		tp.promise(promised)
	}
	if len(filesOf(d).names()) < 4 {
		t.Fatalf("the workload left %v", filesOf(d).names())
	}
	return tp, n
}

// lucky is a state of the disk that a recovery has to cope with.
type lucky struct {
	disk     files
	promised int
}

// verdict counts what recoveries found, so that a test can tell that it met
// what it is about.
type verdict struct{ states, cut, lost, resumed int }

// recovers opens what a power loss left and says what is wrong with it.
func (l lucky) recovers(dir string, v *verdict) error {
	d := l.disk.memory()
	j, err := Open(dir, options(d, newTape(nil)))
	if err != nil {
		return fmt.Errorf("recovery: %w", err)
	}
	got, first, err := numbered(j)
	if err == nil {
		err = l.sound(j, first, len(got))
	}
	v.states++
	if r := j.Recovered(); r.Cut > 0 {
		v.cut++
		if r.Lost > 0 {
			v.lost++
		}
	}
	if err != nil {
		return errors.Join(err, j.Close())
	}
	// It goes on from there, and what was cut never comes back.
	lsn, err := j.Append(payload(first+len(got), 50))
	if err == nil {
		err = j.Wait(lsn, Synced)
	}
	if err := errors.Join(err, j.Close()); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	if j, err = Open(dir, options(d, newTape(nil))); err != nil {
		return fmt.Errorf("the start after that: %w", err)
	}
	count := 0
	_, err = j.Read(j.First(), func(LSN, []byte) error { count++; return nil })
	if err == nil && (count != len(got)+1 || j.Recovered().Cut != 0) {
		err = fmt.Errorf("%d frames and one more, then %d, %+v", len(got), count, j.Recovered())
	}
	v.resumed++
	return errors.Join(err, j.Close())
}

// numbered reads all frames, which must be those of the workload in order, and
// says with which they begin.
func numbered(j *Journal) (got []LSN, first int, err error) {
	first = -1
	_, err = j.Read(j.First(), func(end LSN, p []byte) error {
		n := 0
		if _, err := fmt.Sscanf(string(p[:min(9, len(p))]), "%08d:", &n); err != nil {
			return fmt.Errorf("a frame of %.20q", p)
		}
		if first < 0 {
			first = n
		}
		if n != first+len(got) || !bytes.Equal(p, payload(n, frameSize(n))) {
			return fmt.Errorf("frame %d from %d on is number %d, or is not what was appended", len(got), first, n)
		}
		got = append(got, end)
		return nil
	})
	return got, max(first, 0), err
}

// sound compares what was recovered with what was promised and what was there.
func (l lucky) sound(j *Journal, first, count int) error {
	if first+count < l.promised {
		return fmt.Errorf("frames %d to %d are there, %d were promised", first, first+count, l.promised)
	}
	if first > 0 && j.First() == 0 {
		return fmt.Errorf("the first frame is number %d", first)
	}
	r := j.Recovered()
	if int(r.Frames) != count || r.End != j.End() {
		return fmt.Errorf("%d frames up to %d, reported as %+v", count, j.End(), r)
	}
	rest := 0
	if b := l.disk[j.active.name]; int64(len(b)) > j.active.offset(j.End()) {
		rest = len(bytes.TrimRight(b[j.active.offset(j.End()):], "\x00"))
	}
	if int64(rest) != r.Cut {
		return fmt.Errorf("%d bytes were behind the end, %d are reported as cut", rest, r.Cut)
	}
	return nil
}

// states are the different states of the disk that the tape allows for behind
// any of its steps from the given one on.
func (t *tape) states(from, limit int, r *rand.Rand) (list []lucky, most int) {
	seen := map[[32]byte]bool{}
	for n := from; n <= len(t.ops); n++ {
		ways := 0
		lucks(limit, r, func(choose func(n int) int) {
			disk, promised := t.after(n, choose)
			l := lucky{disk, promised[Synced]}
			if ways++; ways == 1 { // all has arrived, as when only the process has ended
				l.promised = promised[Written]
			}
			if sum := l.sum(); !seen[sum] {
				seen[sum] = true
				list = append(list, l)
			}
		})
		most = max(most, ways)
	}
	return list, most
}

func (l lucky) sum() (sum [32]byte) {
	h := sha256.New()
	fmt.Fprintln(h, l.promised)
	for _, name := range l.disk.names() {
		fmt.Fprintln(h, name, len(l.disk[name]))
		h.Write(l.disk[name])
	}
	return [32]byte(h.Sum(nil))
}

func (l lucky) String() string {
	var s []string
	for _, name := range l.disk.names() {
		s = append(s, fmt.Sprintf("%s (%d)", name, len(l.disk[name])))
	}
	return strings.Join(s, ", ")
}

// Whenever the power fails, and whatever of the unsynced has reached the disk
// then: nothing that was promised is lost, nothing torn is believed, and what is
// cut is told.
func TestEveryCrashStateIsRecoveredFrom(t *testing.T) {
	tp, _ := tapedWorkload(t)
	limit := 40
	if testing.Short() {
		limit = 8
	}
	r, dir, start := rand.New(rand.NewPCG(1, 2)), t.TempDir(), time.Now()
	list, most := tp.states(0, limit, r)
	var v, again, killed verdict
	for i, l := range list {
		if err := l.recovers(dir, &v); err != nil {
			t.Fatalf("state %d of %d, with %s: %v", i, len(list), l, err)
		}
		// The power fails again while that is recovered from.
		if i%25 == 0 {
			during := newTape(l.disk)
			during.promise(promise{l.promised, l.promised})
			again.recoversTwice(t, during, l, r)
		}
	}
	for n := 0; n <= len(tp.ops); n += 7 {
		killed.recoversTwice(t, tp.killed(n), tp.whole(n), r)
	}
	t.Logf("%d steps of the disk, up to %d ways at each: %d states in %v, %d with something cut, of them %d with whole frames in it; %d states of another power loss within recovery, and %d of one within recovery from a kill",
		len(tp.ops), most, v.states, time.Since(start).Round(time.Millisecond), v.cut, v.lost, again.states, killed.states)
	if v.resumed != v.states || v.cut == 0 || v.lost == 0 || again.cut == 0 || killed.cut == 0 {
		t.Errorf("the crashes were too gentle: %+v, %+v, %+v", v, again, killed)
	}
}

// whole is the disk with all of the first n steps on it.
func (t *tape) whole(n int) lucky {
	disk, promised := t.after(n, func(n int) int { return n - 1 })
	return lucky{disk, promised[Written]}
}

// recoversTwice has a journal recover from l, on a tape that goes on from there,
// and the power fail meanwhile or right after.
func (v *verdict) recoversTwice(t *testing.T, during *tape, l lucky, r *rand.Rand) {
	t.Helper()
	dir, from := t.TempDir(), len(during.ops)
	j, err := Open(dir, options(l.disk.memory(), during))
	if err != nil {
		t.Fatal(err)
	}
	got, first, err := numbered(j)
	all := first + len(got)
	during.promise(promise{all, all}) // what was found is synced now
	if err := errors.Join(err, j.Close()); err != nil {
		t.Fatal(err)
	}
	if all < l.promised {
		t.Fatalf("%d frames, %d were promised", all, l.promised)
	}
	list, _ := during.states(from, 6, r)
	for i, second := range list {
		if err := second.recovers(dir, v); err != nil {
			t.Fatalf("recovered from %s, and then from %s (state %d of %d): %v", l, second, i, len(list), err)
		}
	}
}

// The test above is only as good as its eyes: on a disk that forgets what it
// says it has synced, promises are broken, and it sees that.
func TestALyingDiskIsNoticedByTheReplay(t *testing.T) {
	tp, _ := tapedWorkload(t)
	tp.deaf = true
	r, dir := rand.New(rand.NewPCG(1, 2)), t.TempDir()
	list, _ := tp.states(0, 2, r)
	broken, v := 0, verdict{}
	for _, l := range list {
		if l.recovers(dir, &v) != nil {
			broken++
		}
	}
	t.Logf("%d of %d states break a promise", broken, len(list))
	if broken == 0 {
		t.Error("no promise was broken")
	}
}
