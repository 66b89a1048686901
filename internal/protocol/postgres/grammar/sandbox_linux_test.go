package grammar_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/protocol/postgres/grammar"
)

// What a text that took over the child could do: nothing, in namespaces of its
// own as well as where the system grants none.
func TestSandbox(t *testing.T) {
	gateway := fmt.Sprint(os.Getpid())
	for _, where := range []string{"apart", "beside"} {
		t.Run(where, func(t *testing.T) {
			p := start(t, grammar.Config{Command: childOf(probeArgument), Workers: 1})
			if where == "beside" {
				p.Beside()
			}
			for _, attempt := range []string{
				"environment", "read a file", "write a file", "connect", "unix socket", "listen",
				"run a program", "become a program", "fork", "outlive the gateway", "be dumped", "raise a limit",
				"write code", "make code",
				"trace " + gateway, "kill " + gateway, "tgkill " + gateway, "sigqueue " + gateway, "sigio " + gateway,
				"peek " + gateway, "open " + gateway,
				"memory",
			} {
				f, err := p.Ask(context.Background(), attempt)
				switch {
				case attempt == "memory" && errors.Is(err, grammar.ErrKilled):
				case err != nil:
					t.Errorf("%s: %v", attempt, err)
				case f.Refused != "refused":
					t.Errorf("%s: %s", attempt, f.Refused)
				}
			}
		})
	}
}

// gatewayArgument makes the test binary a gateway with one child, whose
// process id it says.
const gatewayArgument = "sql-grammar-gateway"

func actAsGateway() {
	p, err := grammar.Start(grammar.Config{Workers: 1, OnBare: func(reason string) {
		fmt.Println("0", reason)
		os.Exit(1)
	}})
	if err != nil {
		fmt.Println("0", err)
		os.Exit(1)
	}
	fmt.Println(p.PID())
	io.Copy(io.Discard, os.Stdin) //nolint:errcheck // until it is closed
	os.Exit(0)
}

// startGateway starts a gateway as some user and returns its child's folder in
// /proc, once the child has answered.
func startGateway(t *testing.T, user *syscall.Credential) (gateway *exec.Cmd, child string) {
	t.Helper()
	gateway = childOf(gatewayArgument)()
	gateway.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	gateway.Env = []string{"SECRET=hunter2"}
	leaked, err := os.Open("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	defer leaked.Close()
	gateway.ExtraFiles = []*os.File{leaked} // which the gateway knows nothing of
	in, err := gateway.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := gateway.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		gateway.Wait() //nolint:errcheck // it may have been killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.HasPrefix(line, "0") {
		t.Fatalf("the gateway has no child: %s %v", line, err)
	}
	return gateway, filepath.Join("/proc", strings.TrimSpace(line))
}

// users are those that a gateway may run as, as far as the test may choose.
func users() map[string]*syscall.Credential {
	if os.Geteuid() != 0 {
		return map[string]*syscall.Credential{"oneself": nil}
	}
	return map[string]*syscall.Credential{"root": nil, "a user": {Uid: 12345, Gid: 12345}}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What the kernel says of a child: it has nothing but its pipes.
func TestChildSeenFromOutside(t *testing.T) {
	for name, user := range users() {
		t.Run(name, func(t *testing.T) {
			_, child := startGateway(t, user)
			if env := read(t, child, "environ"); env != "" {
				t.Errorf("environment: %q", env)
			}
			threads, err := filepath.Glob(filepath.Join(child, "task", "*", "status"))
			if err != nil || len(threads) < 2 {
				t.Fatalf("threads: %v, %v", threads, err)
			}
			for _, thread := range threads {
				status := read(t, thread)
				for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t1", "CapEff:\t0+", "CapPrm:\t0+", "CapInh:\t0+", "CapAmb:\t0+"} {
					if !regexp.MustCompile("(?m)^" + want + "$").MatchString(status) {
						t.Errorf("%s isn't %s:\n%s", thread, want, status)
					}
				}
			}
			if os.Geteuid() == 0 && regexp.MustCompile(`(?m)^[UG]id:\t.*\b0\b`).MatchString(read(t, child, "status")) {
				t.Error("the child is root")
			}
			limits := read(t, child, "limits")
			for _, want := range []string{
				`Max cpu time +90 +90`, `Max file size +0 +0`, `Max core file size +0 +0`, `Max open files +8 +8`,
				`Max data size +\d+ +\d+`, `Max address space +\d+ +\d+`,
			} {
				if !regexp.MustCompile(want).MatchString(limits) {
					t.Errorf("no limit %s:\n%s", want, limits)
				}
			}
			if code := regexp.MustCompile(`(?m)^.* [r-]wx. .*$`).FindString(read(t, child, "maps")); code != "" {
				t.Errorf("memory to write code to: %s", code)
			}
			descriptors(t, child)
			namespaces(t, child)
		})
	}
}

// descriptors checks that a child has a pipe each way and what its own runtime
// has made.
func descriptors(t *testing.T, child string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(child, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) < 3 {
		t.Errorf("descriptors: %v", entries)
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(child, "fd", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"0": "pipe:", "1": "pipe:", "2": os.DevNull}[e.Name()]
		switch {
		case want != "" && strings.HasPrefix(target, want):
		case want == "" && strings.HasPrefix(target, "anon_inode:[event"): // eventpoll, eventfd
		case want == "" && strings.HasPrefix(target, "/sys/fs/cgroup/"): // how many processors it may use
		default:
			t.Errorf("descriptor %s is %s", e.Name(), target)
		}
	}
}

func namespaces(t *testing.T, child string) {
	t.Helper()
	for _, ns := range []string{"user", "pid", "net", "ipc", "uts"} {
		its, err := os.Readlink(filepath.Join(child, "ns", ns))
		if err != nil {
			t.Fatal(err)
		}
		ours, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if its == ours {
			t.Errorf("the child is in the gateway's %s namespace", ns)
		}
	}
}

// A gateway that is killed leaves no child behind.
func TestChildDiesWithItsGateway(t *testing.T) {
	for name, user := range users() {
		t.Run(name, func(t *testing.T) {
			gateway, child := startGateway(t, user)
			if err := gateway.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				status, err := os.ReadFile(filepath.Join(child, "status"))
				if err != nil || strings.Contains(string(status), "State:\tZ") {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("it lives:\n%s", status)
				}
			}
		})
	}
}
