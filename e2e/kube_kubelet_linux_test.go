package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/exhibit-gateway/exhibit/internal/kubeserver"
)

// kubelet plays a node's, whose containers are local processes: its streams are
// served by the kubelet's own code, and other than kwok it tells programs that
// nothing more is typed, gives them terminals, and says with which code they end.
type kubelet struct {
	dir  string                 // in which they run
	main []string               // what runs in each container, to which one attaches
	over func(pod string) error // is told when that has ended
}

// startKubelet adds a node of which it is the kubelet, and a pod on it.
func (c *cluster) startKubelet(main ...string) *kubelet {
	c.t.Helper()
	k := &kubelet{dir: c.t.TempDir(), main: main}
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		remotecommand.ServeExec(w, r, k, r.PathValue("pod"), "", r.PathValue("container"), r.URL.Query()["command"], streamsOf(r), time.Minute, 30*time.Second, remotecommand.SupportedStreamingProtocols)
	})
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		remotecommand.ServeAttach(w, r, k, r.PathValue("pod"), "", r.PathValue("container"), streamsOf(r), time.Minute, 30*time.Second, remotecommand.SupportedStreamingProtocols)
	})
	server := httptest.NewTLSServer(mux) // the API server takes what certificate it has
	c.t.Cleanup(server.Close)
	c.ok(c.kube.StartNodeOf(c.t.Context(), server.Listener.Addr().String()))
	c.ok(c.kube.StartPod(c.t.Context(), "shop", "web"))
	return k
}

// streamsOf are the streams that an API server asks a kubelet for.
func streamsOf(r *http.Request) *remotecommand.Options {
	q := r.URL.Query()
	return &remotecommand.Options{
		Stdin: q.Has(remotecommand.ExecStdinParam), Stdout: q.Has(remotecommand.ExecStdoutParam), Stderr: q.Has(remotecommand.ExecStderrParam), TTY: q.Has(remotecommand.ExecTTYParam),
	}
}

// ExecInContainer implements remotecommand.Executor.
func (k *kubelet) ExecInContainer(ctx context.Context, _, _, _ string, args []string, in io.Reader, out, failed io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = k.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	run := piped
	if tty {
		run = func(cmd *exec.Cmd, in io.Reader, out, _ io.WriteCloser) error {
			return atTerminal(cmd, in, out, resize)
		}
	}
	err := run(cmd, in, out, failed)
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return utilexec.CodeExitError{Err: err, Code: ended.ExitCode()}
	}
	return err
}

// AttachContainer implements remotecommand.Attacher: what runs in the container
// begins when somebody attaches to it.
func (k *kubelet) AttachContainer(ctx context.Context, name, uid, container string, in io.Reader, out, failed io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	err := k.ExecInContainer(ctx, name, uid, container, k.main, in, out, failed, tty, resize, 0)
	if k.over != nil {
		err = errors.Join(err, k.over(name))
	}
	return err
}

// piped runs a program by pipes, of which its input ends when the stream does.
func piped(cmd *exec.Cmd, in io.Reader, out, failed io.WriteCloser) error {
	cmd.Stdout, cmd.Stderr = out, failed
	if in != nil {
		typed, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(typed, in) // until either of them goes
			typed.Close()
		}()
	}
	return cmd.Run()
}

// atTerminal runs a program at a terminal, which is as large as the last size
// says.
func atTerminal(cmd *exec.Cmd, in io.Reader, out io.Writer, sizes <-chan remotecommand.TerminalSize) error {
	keys, tty, err := openTerminal()
	if err != nil {
		return err
	}
	defer keys.Close()
	go func() {
		for s := range sizes {
			_ = unix.IoctlSetWinsize(int(keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width}) // or it has ended
		}
	}()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr.Setctty = true
	err = cmd.Start()
	tty.Close()
	if err != nil {
		return err
	}
	if in != nil {
		go func() { _, _ = io.Copy(keys, in) }() // until either of them goes
	}
	_, _ = io.Copy(out, keys) // a terminal fails when nobody is at it any more
	return cmd.Wait()
}

// both runs kubectl directly as the cluster's admin and through the gateway as an
// agent, and expects that they print and end the same.
func (c *cluster) both(config, in string, args ...string) (printed string, code int) {
	c.t.Helper()
	type result struct {
		out, failed string
		code        int
	}
	run := func(config string) (r result) {
		env, args := []string(nil), args
		for strings.HasPrefix(args[0], "KUBECTL_") {
			env, args = append(env, args[0]), args[1:]
		}
		cmd := c.kubectlCmd(config, append([]string{"--namespace", "shop"}, args...)...)
		var out, failed bytes.Buffer
		cmd.Env = append(cmd.Env, env...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &failed
		var ended *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &ended) {
			c.t.Fatal(err)
		}
		return result{out.String(), failed.String(), cmd.ProcessState.ExitCode()}
	}
	direct, through := run(c.kube.Kubeconfig()), run(config)
	if direct != through {
		c.t.Errorf("kubectl %s\ndirectly it ends with %d: %.1000q %.1000q\nthrough the gateway with %d: %.1000q %.1000q", strings.Join(args, " "),
			direct.code, direct.out, direct.failed, through.code, through.out, through.failed)
	}
	return through.out, through.code
}

// sockets are kubectl's two ways to a program: the one that it takes by itself,
// version 5 of the protocol over WebSocket, and SPDY.
var sockets = map[string]string{"v5 over WebSocket": "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true", "v4 over SPDY": "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false"}

// Programs read until nothing more is typed and end with their own code; files
// are copied both ways; one attaches to what runs. Each prints what it does
// without the gateway, and is on record with what was typed and shown.
func TestProgramsInPodsReadToTheEnd(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	k := c.startKubelet("sh", "-c", `while read -r line; do echo "heard $line"; done; echo no more`)
	c.must("grant", "add", "--agent", "bot", "--role", "kube-debugger", "--resource", "prod", "--for", "1h", "--ticket", "OPS-7")
	config := c.kubeconfig("bot", "--ticket=OPS-7")
	large := strings.Repeat("0123456789abcdef", 64<<10)
	for name, env := range sockets {
		t.Log(name)
		begun := len(c.did())
		for _, step := range []struct {
			args       []string
			in         string
			want       string
			code       int
			typed, out string // of the recording
		}{
			{args: []string{"exec", "-i", "web", "--", "cat"}, in: "typed\n", want: "typed\n", typed: "typed\n", out: "typed\n"},
			{args: []string{"exec", "-i", "web", "--", "cat"}, in: "", want: ""},
			{args: []string{"exec", "-i", "web", "--", "wc", "-c"}, in: large, want: "1048576\n", typed: large, out: "1048576\n"},
			{args: []string{"exec", "-i", "web", "--", "cat"}, in: large, want: large, typed: large, out: large},
			{args: []string{"exec", "web", "--", "sh", "-c", "echo a; echo b >&2; exit 42"}, want: "a\n", code: 42},
			{args: []string{"exec", "-i", "web", "--", "head", "-c", "5"}, in: large, want: "01234"}, // which reads no more
			{args: []string{"attach", "-i", "web"}, in: "one\ntwo\n", want: "heard one\nheard two\nno more\n", typed: "one\ntwo\n", out: "heard one\nheard two\nno more\n"},
		} {
			out, code := c.both(config, step.in, append([]string{env}, step.args...)...)
			if out != step.want || code != step.code {
				t.Errorf("%s, kubectl %s: exit %d, %.200q", name, strings.Join(step.args, " "), code, out)
			}
			list := c.ran(step.args[0] + " pods/shop/web")
			d := list[len(list)-1]
			if d.Code != fmt.Sprintf("exit:%d", step.code) || (d.Outcome == "ok") != (step.code == 0) {
				t.Errorf("%s, kubectl %s is on record as %+v", name, strings.Join(step.args, " "), d)
			}
			if _, events := c.played(d.ID); step.typed != "" && (events["i"] != step.typed || events["o"] != step.out) {
				t.Errorf("%s, kubectl %s plays as %.300q", name, strings.Join(step.args, " "), events)
			}
		}

		file := bytes.Repeat([]byte("what is copied\x00\xff\n"), 10_000)
		c.ok(os.WriteFile(c.path("up"), file, 0o600))
		c.both(config, "", env, "cp", c.path("up"), "web:copied")
		if b, err := os.ReadFile(filepath.Join(k.dir, "copied")); err != nil || !bytes.Equal(b, file) {
			t.Errorf("%s: what was copied to the pod are %d bytes, %v", name, len(b), err)
		}
		c.both(config, "", env, "cp", "web:copied", c.path("down"))
		if b, err := os.ReadFile(c.path("down")); err != nil || !bytes.Equal(b, file) {
			t.Errorf("%s: what was copied from the pod are %d bytes, %v", name, len(b), err)
		}
		c.ok(errors.Join(os.Remove(filepath.Join(k.dir, "copied")), os.Remove(c.path("down"))))
		c.ran("exec pods/shop/web")
		for _, d := range c.did()[begun:] {
			if d.Outcome == "in_doubt" || d.Outcome == "open" {
				t.Errorf("%s: %+v", name, d)
			}
		}
	}
	c.audited()
	c.passes()
}

// A person at a terminal sees the same as without the gateway, at the size that
// theirs has, and ends it with the keys that end it.
func TestTerminalsInPods(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startKubelet("sh", "-c", `stty -echo; while read -r line; do echo "heard $line at $(stty size)"; done; echo over`)
	c.ok(c.kube.Apply(t.Context(), fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "screen", "namespace": "shop"},
"spec": {"nodeName": %q, "containers": [{"name": "main", "image": "local", "stdin": true, "tty": true}]}}`, kubeserver.Node)))
	_, err := c.kube.Run(t.Context(), "wait", "-n", "shop", "--for=condition=Ready", "--timeout=60s", "pod/screen")
	c.ok(err)
	c.must("grant", "add", "--agent", "bot", "--role", "kube-debugger", "--resource", "prod", "--for", "1h", "--ticket", "OPS-7")
	config := c.kubeconfig("bot", "--ticket=OPS-7")
	for name, env := range sockets {
		for text, args := range map[string][]string{
			"attach": {"attach", "-it", "screen"},
			"exec":   {"exec", "-it", "screen", "--", "sh", "-c", `stty -echo; while read -r line; do echo "heard $line at $(stty size)"; done; echo over`},
		} {
			cmd := c.kubectlCmd(config, args...)
			cmd.Env = append(cmd.Env, env)
			p := c.sitAt(t, cmd, "\x04")
			c.ok(unix.IoctlSetWinsize(int(p.keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 132}))
			p.press("begin\n")
			p.line("heard begin at ") // it is connected, and takes sizes
			c.until(60*time.Second, "the terminal has its size", func() bool {
				p.press("size\n")
				return strings.Contains(p.line("heard size at "), "50 132")
			})
			c.ok(unix.IoctlSetWinsize(int(p.keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 20, Col: 70}))
			c.until(60*time.Second, "the terminal has its new size", func() bool {
				p.press("size\n")
				return strings.Contains(p.line("heard size at "), "20 70")
			})
			p.press("\x04")
			p.expect("over")
			list := c.ran(text + " pods/shop/screen")
			last := list[len(list)-1]
			if last.Outcome != "ok" || last.Code != "exit:0" {
				t.Errorf("%s, %s: %+v", text, name, last)
			}
			_, events := c.played(last.ID)
			if !strings.Contains(events["i"], "size\n") || !strings.HasSuffix(events["i"], "\x04") || !strings.Contains(events["o"], "heard size at 20 70") || !strings.Contains(events["r"], "132x50") || !strings.Contains(events["r"], "70x20") {
				t.Errorf("%s, %s plays as %.2000q", text, name, events)
			}
		}
	}
	c.audited()
	c.passes()
}

// line waits for a line that begins with a text and returns its rest.
func (p *terminal) line(begin string) string {
	p.t.Helper()
	p.expect(begin)
	return p.expect("\r\n")
}

// What is begun in one command is a pod, a watch, an attachment and a deletion.
func TestRunAndRemove(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.startKubelet("cat").over = func(pod string) error {
		_, err := c.kube.Run(t.Context(), "patch", "pod", pod, "-n", "shop", "--subresource=status", "--type=merge", "-p",
			`{"status": {"phase": "Succeeded", "containerStatuses": [{"name": "once", "image": "local", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]}}`)
		return err
	}
	c.grant("bot", "kube-shop-deployer", "prod")
	c.must("grant", "add", "--agent", "bot", "--role", "kube-debugger", "--resource", "prod", "--for", "1h", "--ticket", "OPS-7")
	config := c.kubeconfig("bot", "--ticket=OPS-7")
	out, code := c.both(config, "typed\n", "run", "once", "--image=local", "--restart=Never", "--rm", "-i", "--quiet", `--overrides={"spec": {"nodeName": "node-0"}}`)
	if code != 0 || !strings.HasPrefix(out, "typed\n") {
		t.Errorf("exit %d, %q", code, out)
	}
	var texts []string
	for _, d := range c.did() {
		texts = append(texts, fmt.Sprintf("%s: %s %s", d.Text, d.Outcome, d.Code))
	}
	for _, want := range []string{"create pods/shop/once: ok 201", "attach pods/shop/once: ok exit:0", "delete pods/shop/once: ok 200"} {
		if !slices.Contains(texts, want) {
			t.Errorf("no record says %q of\n%s", want, strings.Join(texts, "\n"))
		}
	}
	c.audited()
	c.passes()
}
