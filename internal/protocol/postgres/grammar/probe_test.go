package grammar_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

// probeArgument makes the test binary a child that is under somebody else's
// control: it answers a text by trying what the text says.
const probeArgument = "sql-grammar-probe"

func probe() {
	grammar.MainFor(func(text string) *grammar.Facts {
		if err := try(text); err != nil {
			return &grammar.Facts{Refused: "refused"}
		}
		return &grammar.Facts{Refused: "it worked"}
	})
}

func try(what string) error {
	ctx := context.Background()
	switch what {
	case "hang":
		for { //nolint:staticcheck // as a grammar in a loop would
		}
	case "sleep":
		time.Sleep(time.Hour)
	case "wait for others":
		time.Sleep(500 * time.Millisecond)
	case "garbage":
		fmt.Fprint(os.Stdout, "\x00\x00\x00\x07not JSON")
		time.Sleep(time.Second)
	case "huge":
		fmt.Fprint(os.Stdout, "\xff\xff\xff\xff")
		time.Sleep(time.Second)
	case "many values":
		b := []byte(`{"names":[` + strings.Repeat(`{},`, 200_000) + `{}]}`)
		os.Stdout.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
		time.Sleep(time.Second)
	case "take a while":
		time.Sleep(20 * time.Millisecond)
	case "short":
		fmt.Fprint(os.Stdout, "\x00\x00\x00\x07")
		os.Exit(0)
	case "environment":
		if len(os.Environ()) == 0 {
			return os.ErrNotExist
		}
	case "read a file":
		_, err := os.ReadFile("/etc/hostname")
		return err
	case "write a file":
		return os.WriteFile("/tmp/exhibit-probe", []byte("x"), 0o600)
	case "connect":
		_, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", "127.0.0.1:22")
		if err != nil && strings.Contains(err.Error(), "refused") {
			return nil // somebody could have been there
		}
		return err
	case "unix socket":
		_, err := new(net.Dialer).DialContext(ctx, "unix", "/tmp/exhibit-probe.sock")
		if err != nil && strings.Contains(err.Error(), "no such file") {
			return nil
		}
		return err
	case "listen":
		_, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		return err
	case "run a program":
		return exec.CommandContext(ctx, "/bin/true").Run()
	case "become a program":
		return syscall.Exec("/bin/true", []string{"true"}, nil)
	case "fork":
		return call(unix.SYS_CLONE, uintptr(syscall.SIGCHLD))
	case "outlive the gateway":
		return call(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, 0)
	case "be dumped":
		return call(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1)
	case "raise a limit":
		return call(unix.SYS_SETRLIMIT, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&unix.Rlimit{Cur: 8, Max: 8})))
	case "write code":
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		return err
	case "make code":
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			panic(err) // not what is forbidden
		}
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	case "memory":
		var hoard [][]byte
		for range 64 {
			b := make([]byte, 64<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			hoard = append(hoard, b)
		}
		fmt.Fprint(os.Stderr, len(hoard))
	default:
		return tryOn(what)
	}
	return nil
}

// tryOn tries what is done to the process with the id that follows.
func tryOn(what string) error {
	verb, id, _ := strings.Cut(what, " ")
	pid, err := strconv.Atoi(id)
	if err != nil {
		panic(what)
	}
	switch verb {
	case "trace":
		return syscall.PtraceAttach(pid)
	case "kill":
		return syscall.Kill(pid, 0)
	case "tgkill":
		return unix.Tgkill(pid, pid, 0)
	case "sigqueue":
		return call(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), 0, 0)
	case "sigio": // has the kernel signal it when something can be read
		return call(unix.SYS_FCNTL, 0, unix.F_SETOWN, uintptr(pid))
	case "peek":
		b := make([]byte, 1)
		local, remote := []unix.Iovec{{Base: &b[0], Len: 1}}, []unix.RemoteIovec{{Len: 1}}
		_, err := unix.ProcessVMReadv(pid, local, remote, 0)
		return err
	case "open":
		_, err := os.ReadFile("/proc/" + id + "/environ")
		return err
	}
	panic(what)
}

func call(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := syscall.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if number == unix.SYS_CLONE && errno == 0 {
		os.Exit(0)
	}
	if errno != 0 {
		return errno
	}
	return nil
}
