package grammar_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

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
	case "garbage":
		fmt.Fprint(os.Stdout, "\x00\x00\x00\x07not JSON")
		time.Sleep(time.Second)
	case "huge":
		fmt.Fprint(os.Stdout, "\xff\xff\xff\xff")
		time.Sleep(time.Second)
	case "short":
		fmt.Fprint(os.Stdout, "\x00\x00\x00\x07")
		os.Exit(0)
	case "environment":
		if len(os.Environ()) == 0 {
			return os.ErrNotExist
		}
	case "descriptors":
		// Those of the runtime's own poller come right after the three.
		for fd := 3; fd < 64; fd++ {
			var st syscall.Stat_t
			if syscall.Fstat(fd, &st) == nil && st.Mode&syscall.S_IFMT != 0 {
				return nil
			}
		}
		return os.ErrNotExist
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
	case "fork":
		pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		if pid == 0 {
			os.Exit(0)
		}
	case "trace the gateway":
		return syscall.PtraceAttach(os.Getppid())
	case "signal the gateway":
		return syscall.Kill(os.Getppid(), 0)
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
	}
	return nil
}
