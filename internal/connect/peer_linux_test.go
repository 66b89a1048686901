package connect

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A socket that somebody opened to all still serves its owner only.
func TestAnotherUserIsTurnedAway(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	folder := socketFolder(t)
	e, _ := open(t, Config{}, "orders=postgres://127.0.0.1:1,"+folder)
	path := filepath.Join(folder, ".s.PGSQL.5432")
	if err := errors.Join(os.Chmod(folder, 0o755), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	stranger := os.NewFile(uintptr(connectAs(t, nobody, path)), path)
	defer stranger.Close()
	if n, err := stranger.Read(make([]byte, 1)); n != 0 || err != io.EOF && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("another user is told %d bytes, %v", n, err)
	}
	client := dial(t, e)
	write(t, client, packet(sslRequest))
	expects(t, client, []byte{'N'})
}

// connectAs connects as another user, which on Linux a single thread can be.
func connectAs(t *testing.T, uid int, path string) (fd int) {
	t.Helper()
	runtime.LockOSThread()
	become := func(uid int) {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			t.Fatal(errno) // the thread stays locked, and ends with the test
		}
	}
	become(uid)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	become(0)
	runtime.UnlockOSThread()
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
