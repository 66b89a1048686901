package pgserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// passwordFile holds the superuser's password beside the data of a new cluster.
const passwordFile = "pw"

// cluster makes data in dir. Making one takes a second of a processor, and tests
// make some hundred: where there is a folder for tools (see ProgramsOf), the
// first one of a server's program is kept there, and the others are its copies.
func (s *Server) cluster(ctx context.Context, bin, dir string, cred *syscall.Credential) error {
	kept, err := keptCluster(bin)
	if err != nil {
		return s.initdb(ctx, bin, dir, cred)
	}
	if s.copyOf(kept, dir, cred) == nil {
		return nil
	}
	// It isn't there yet, or isn't whole.
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "data")), s.initdb(ctx, bin, dir, cred)); err != nil {
		return err
	}
	_ = s.keep(kept, dir) // where it can't be kept the next one is made, too
	return nil
}

// keptCluster is where the cluster of a program is kept, or would be.
func keptCluster(bin string) (string, error) {
	tools, err := toolsDir()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(tools); err != nil {
		return "", err
	}
	program, err := os.Stat(filepath.Join(bin, "initdb"))
	if err != nil {
		return "", err
	}
	id := fmt.Sprintln(program.Size(), program.ModTime().UnixNano(), initdbArguments)
	return filepath.Join(tools, fmt.Sprintf("cluster-%.8x", sha256.Sum256([]byte(id)))), nil
}

// keep keeps a new cluster. Somebody else may keep one at the same time.
func (s *Server) keep(kept, dir string) error {
	half, err := os.MkdirTemp(filepath.Dir(kept), "cluster-half-")
	if err != nil {
		return err
	}
	err = os.CopyFS(filepath.Join(half, "data"), os.DirFS(filepath.Join(dir, "data")))
	err = errors.Join(err, os.WriteFile(filepath.Join(half, passwordFile), []byte(s.Password), 0o600))
	if err == nil && os.Rename(half, kept) == nil {
		return nil
	}
	return errors.Join(err, os.RemoveAll(half))
}

// copyOf makes data in dir as a copy of what is kept.
func (s *Server) copyOf(kept, dir string, cred *syscall.Credential) error {
	password, err := os.ReadFile(filepath.Join(kept, passwordFile))
	if err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	if err := os.CopyFS(data, os.DirFS(filepath.Join(kept, "data"))); err != nil {
		return err
	}
	s.Password = string(password)
	return errors.Join(os.Chmod(data, 0o700), handOver(data, cred))
}

// handOver gives a folder, and what is in it, to the user that the server runs
// as.
func handOver(dir string, cred *syscall.Credential) error {
	if cred == nil {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, int(cred.Uid), int(cred.Gid)))
	})
}

var initdbArguments = []string{"-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"}

func (s *Server) initdb(ctx context.Context, bin, dir string, cred *syscall.Credential) error {
	s.Password = rand.Text()
	pw, data := filepath.Join(dir, passwordFile), filepath.Join(dir, "data")
	if err := errors.Join(os.WriteFile(pw, []byte(s.Password+"\n"), 0o600), os.Mkdir(data, 0o700)); err != nil {
		return err
	}
	defer os.Remove(pw)
	if err := errors.Join(handOver(pw, cred), handOver(data, cred)); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), append([]string{"-D", data, "-U", s.User, "--pwfile=" + pw}, initdbArguments...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	cmd.Dir = data
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
