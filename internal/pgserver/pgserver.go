// Package pgserver runs a real PostgreSQL in a folder of its own, for the demo
// and for tests. In flows a folder; out flows a server on a free loopback port
// that asks for SCRAM-SHA-256 passwords, logs every statement, and is gone when
// it is stopped.
package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a running PostgreSQL.
type Server struct {
	Addr     string // host:port on loopback
	User     string // a superuser
	Password string
	Log      string // path of the server's own log, with every statement
	Version  string

	cmd    *exec.Cmd
	done   chan struct{}
	launch func() error // starts it in its folder
}

// Start makes a cluster in dir, which must not exist, and starts it with extra
// settings ("name=value"). Which PostgreSQL it is says Programs.
func Start(ctx context.Context, dir string, settings ...string) (*Server, error) {
	return StartVersion(ctx, "", dir, settings...)
}

// StartVersion is Start with the PostgreSQL of a major version, if one is named.
func StartVersion(ctx context.Context, major, dir string, settings ...string) (_ *Server, err error) {
	programs, err := ProgramsOf(major)
	if err != nil {
		return nil, err
	}
	cred, err := credential()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if cred != nil && !open(programs) {
		closed := programs
		if programs = filepath.Join(dir, "programs"); linkDir(programs, closed) != nil {
			if err := errors.Join(os.RemoveAll(programs), os.CopyFS(programs, os.DirFS(closed))); err != nil {
				return nil, err
			}
		}
	}
	bin := filepath.Join(programs, "bin")
	s := &Server{User: "postgres", Log: filepath.Join(dir, "server.log"), done: make(chan struct{})}
	if err := s.cluster(ctx, bin, dir, cred); err != nil {
		return nil, err
	}
	if s.Addr, err = FreeAddr(); err != nil {
		return nil, err
	}
	s.launch = func() error { return s.launchIn(bin, dir, cred, settings) }
	if err := s.launch(); err != nil {
		return nil, err
	}
	if err := s.wait(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// linkDir makes another folder of the same files, which takes no time and no
// space. It fails across file systems.
func linkDir(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if name = filepath.Join(to, name); d.IsDir() {
			return os.Mkdir(name, 0o755)
		}
		return os.Link(path, name)
	})
}

func (s *Server) launchIn(bin, dir string, cred *syscall.Credential, settings []string) error {
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	argv := []string{"-D", data, "-k", "", "-h", host, "-p", port}
	for _, setting := range append([]string{"log_statement=all", "log_line_prefix=%m [%p] ", "max_connections=300"}, settings...) {
		argv = append(argv, "-c", setting)
	}
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// Not bound to a context: the server ends in good order, by Stop.
	s.cmd = exec.CommandContext(context.Background(), filepath.Join(bin, "postgres"), argv...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = data, log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("starting postgres: %w", err)
	}
	cmd, done := s.cmd, s.done
	go func() {
		defer close(done)
		_ = cmd.Wait() // how it ended is in its log
	}()
	return nil
}

// wait waits until the server answers.
func (s *Server) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		c, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			defer c.Close(ctx)
			return c.QueryRow(ctx, "show server_version").Scan(&s.Version)
		}
		select {
		case <-s.done:
			log, _ := os.ReadFile(s.Log)
			return fmt.Errorf("postgres ended at once: %s", log)
		case <-ctx.Done():
			return fmt.Errorf("postgres does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// URL reaches a database directly, as the superuser.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", s.User, s.Password, s.Addr, database)
}

// Exec runs statements directly, as the superuser.
func (s *Server) Exec(ctx context.Context, database string, statements ...string) error {
	c, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for _, sql := range statements {
		if _, err := c.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%.60s: %w", sql, err)
		}
	}
	return nil
}

// Stop ends the server at once ("immediate": its folder is not used again).
func (s *Server) Stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.done:
		return nil
	case <-time.After(10 * time.Second):
		return s.cmd.Process.Kill()
	}
}

// Restart ends the server's sessions, shuts it down in good order and starts it
// again, at the same address.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.done = make(chan struct{})
	if err := s.launch(); err != nil {
		return err
	}
	return s.wait(ctx)
}

// given are the ports that FreeAddr has returned.
var given sync.Map

// FreeAddr is a loopback address where nothing listens, another one each time.
// Its port is none of those that systems give to outgoing connections (from
// 32768 on Linux, from 49152 elsewhere) or to who asks for any: who is given one
// of them may find it taken when it comes to listen there, or to listen again.
// It is drawn at random, so that programs that run at once meet rarely.
func FreeAddr() (string, error) {
	const lowest, ports = 10000, 22000
	for range 1000 {
		port := lowest + mathrand.IntN(ports) //nolint:gosec // not a secret
		if _, again := given.LoadOrStore(port, true); again {
			continue
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return "", err
		}
		return addr, l.Close()
	}
	return "", fmt.Errorf("no port from %d to %d is free", lowest, lowest+ports-1)
}

// credential is whom PostgreSQL runs as: it refuses root, so root uses the
// user that Debian's package makes.
func credential() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL refuses to run as root, and there is no user postgres: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
}
