package e2e

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// onSmallDisk moves the stopped gateway's data to a disk of its own.
func (w *world) onSmallDisk(size string) {
	w.t.Helper()
	w.onDisk("-t", "tmpfs", "-o", "mode=0700,size="+size, "none")
}

// onDisk moves the stopped gateway's data to what the arguments of mount say.
func (w *world) onDisk(mount ...string) {
	w.t.Helper()
	data, away := w.path("data"), w.path("data.away")
	w.ok(os.Rename(data, away))
	w.ok(os.Mkdir(data, 0o700))
	if out, err := exec.CommandContext(w.t.Context(), "mount", append(mount, data)...).CombinedOutput(); err != nil {
		if os.Geteuid() != 0 && os.Getenv("CI") == "" {
			w.t.Skip("mounting a disk takes root")
		}
		w.t.Fatalf("mounting a disk: %v\n%s", err, out)
	}
	w.t.Cleanup(func() {
		if w.serve != nil {
			_ = w.serve.Process.Kill()
			<-w.served
		}
		if err := syscall.Unmount(data, syscall.MNT_DETACH); err != nil {
			w.t.Error(err)
		}
	})
	w.ok(os.CopyFS(data, os.DirFS(away)))
	w.ok(filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error { // CopyFS widens modes
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return errors.Join(err, os.Chmod(path, 0o600))
	}))
}

// remount changes how a folder's disk is mounted. That is refused while a file of
// it is open for writing, as one may be for a moment in another test's child.
func (w *world) remount(folder, how string) {
	w.t.Helper()
	w.until(60*time.Second, "the disk is mounted "+how, func() bool {
		out, err := w.run("mount", "-o", "remount,"+how, w.path(folder))
		if err != nil {
			w.t.Logf("%v\n%s", err, out)
		}
		return err == nil
	})
}

// fill takes all space that is left to a folder, and returns what gives it back.
func (w *world) fill(folder string) (free func()) {
	w.t.Helper()
	name := filepath.Join(w.path(folder), "filler")
	f, err := os.Create(name)
	w.ok(err)
	for _, size := range []int{64 << 10, 4 << 10, 512} { // a large write may fail as a whole
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			w.t.Fatal(err)
		}
		err = nil
	}
	w.ok(f.Close())
	return func() { w.ok(os.Remove(name)) }
}

// TestAFullDiskStopsWhatIsNewAndNothingElse runs agents until the journal has
// no room. What was asked has its outcome, rights can be taken away, and with
// room again all goes on by itself.
func TestAFullDiskStopsWhatIsNewAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	grant := w.grant("idle", "reader")
	w.stop(syscall.SIGTERM)
	w.onSmallDisk("180m")
	w.start()
	free := w.fill("data")

	// Parameters are sealed with the command: long ones take a good deal of room.
	url := w.url("bot", "sslmode=disable", "--ticket", "T-1")
	long := strings.Repeat("x", 256<<10)
	commands := func(param string) error {
		c, err := pgx.Connect(t.Context(), url)
		for err == nil {
			_, err = c.Exec(t.Context(), "select length($1)", param)
		}
		return err
	}
	var refusals sync.Map
	var agents sync.WaitGroup
	for range 4 {
		agents.Go(func() {
			refusals.Store(commands(long).Error(), true)
			refusals.Store(commands("").Error(), true) // there was room for small ones
		})
	}
	agents.Wait()
	n := 0
	refusals.Range(func(err, _ any) bool {
		n++
		if !strings.Contains(err.(string), "cannot be written") {
			t.Errorf("an agent was told %s", err)
		}
		return true
	})
	if _, err := pgx.Connect(t.Context(), url); err == nil || n == 0 {
		t.Error("an agent was let in that could not be recorded")
	}
	select {
	case <-w.served:
		t.Fatal("the gateway has ended")
	default:
	}
	w.must("grant", "revoke", grant, "--reason", "while the disk is full")
	if status, err := w.exhibit("log", "status"); err == nil || !strings.Contains(status, "no space left") {
		t.Errorf("log status doesn't say that the disk is full:\n%s", status)
	}

	free()
	w.until(60*time.Second, "agents are let in again", func() bool {
		c, err := pgx.Connect(t.Context(), url)
		if err != nil {
			return false
		}
		defer c.Close(t.Context())
		_, err = c.Exec(t.Context(), "select 1")
		return err == nil
	})
	for _, d := range w.did("--agent", "bot") {
		if d.Outcome != "ok" && d.Outcome != "denied" {
			t.Errorf("a command ended %q on a full disk", d.Outcome)
		}
	}
	w.passes()
}

// TestAFolderThatCannotBeServed starts a second gateway on a folder that is
// served, and one on a disk that is read-only. Each says what is wrong, and does
// no harm.
func TestAFolderThatCannotBeServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	refused := func(what string, says ...string) {
		t.Helper()
		out, err := w.exhibit("serve", "--config", w.path("exhibit.yaml"))
		if err == nil {
			t.Fatalf("%s is served", what)
		}
		for _, s := range says {
			if !strings.Contains(out, s) {
				t.Errorf("%s: the error doesn't say %q:\n%s", what, s, out)
			}
		}
	}
	refused("a folder that is served", "another gateway serves "+w.path("data"), "end it first")
	if _, err := w.connect().Exec(t.Context(), "select 1"); err != nil {
		t.Errorf("the gateway that was there: %v", err)
	}

	w.stop(syscall.SIGTERM)
	w.onSmallDisk("180m")
	w.remount("data", "ro")
	refused("a read-only disk", "read-only file system")
	w.remount("data", "rw")
	w.start()
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "remount,ro", w.path("data")).CombinedOutput(); err == nil {
		t.Errorf("the system makes a disk read-only under a journal that is open:\n%s", out)
		w.remount("data", "rw")
	}
	if _, err := w.connect().Exec(t.Context(), "select 1"); err != nil {
		t.Errorf("writable again: %v", err)
	}
	w.passes()
	moved := 0
	for _, a := range w.table("alerts") {
		if a["rule"] == "data-moved" {
			moved++
		}
	}
	if moved != 1 {
		t.Errorf("that the folder is on another disk is %d times on record", moved)
	}
}

// TestADiskThatGoesReadOnlyUnderTheGateway: a file system that finds an error
// in itself takes no writes any more, also of files that are open. Nothing new
// goes through, and after a repair the record is whole.
func TestADiskThatGoesReadOnlyUnderTheGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.prepareMarks()
	w.stop(syscall.SIGTERM)
	image := w.path("disk.img")
	w.ok(os.WriteFile(image, nil, 0o600))
	w.ok(os.Truncate(image, 512<<20))
	if out, err := w.run("mkfs.ext4", "-q", "-e", "remount-ro", image); err != nil {
		t.Fatalf("making a file system: %v\n%s", err, out)
	}
	w.onDisk("-o", "loop", image)
	w.ok(os.Chmod(w.path("data"), 0o700))
	if out, err := w.run("sync", "-f", w.path("data")); err != nil { // the keys that were copied there
		t.Fatalf("%v\n%s", err, out)
	}
	w.start()

	url := w.url("bot", "sslmode=disable", "--ticket", "T-1")
	before := w.marks.Load()
	wait := w.load(8)
	w.underWay(before)
	device, err := w.run("findmnt", "-no", "SOURCE", w.path("data"))
	w.ok(err)
	w.ok(os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(strings.TrimSpace(device)), "trigger_fs_error"), []byte("a test"), 0o200))
	wait() // every session has ended
	if err := os.WriteFile(w.path("data/probe"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("the disk takes writes: %v", err)
	}
	asked := w.marks.Load()
	if out, err := w.run("psql", "-X", url, "-c", "insert into marks values (-777)"); err == nil || !strings.Contains(out, "record") {
		t.Errorf("an agent is told:\n%s", out)
	}
	if out, err := w.exhibit("token", "bot", "--key", w.path("bot.key")); err == nil || !strings.Contains(out, "hint: ") {
		t.Errorf("a token is had without a record:\n%s", out)
	}
	if out, _ := w.exhibit("log", "status"); !strings.Contains(out, "read-only file system") {
		t.Errorf("the log's status doesn't say why:\n%s", out)
	}
	w.stop(syscall.SIGTERM)
	t.Logf("the gateway ended with %d after %d things that agents did", w.serve.ProcessState.ExitCode(), asked-before)

	w.ok(syscall.Unmount(w.path("data"), 0))
	if out, err := w.run("e2fsck", "-fy", image); err != nil && !strings.Contains(out, "FILE SYSTEM WAS MODIFIED") {
		t.Fatalf("repairing it: %v\n%s", err, out)
	}
	if out, err := w.run("mount", "-o", "loop", image, w.path("data")); err != nil {
		t.Fatalf("mounting it again: %v\n%s", err, out)
	}
	w.start()
	w.accounts()
	if w.serverSaw("values (-777)") {
		t.Error("the server saw what there is no record of")
	}
}
