package grammar

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

// Argument is the hidden first argument that makes the binary a child.
const Argument = "sql-grammar"

// A child ends by itself after so much processor time; its hard limit, which
// holds when nobody is left to kill it, is a little above.
const (
	childCPU     = 60 * time.Second
	childCPUHard = 90 // seconds
)

// What a child may map beyond what it has when it starts: all told, and what
// it can write to.
const (
	childMemory  = 1 << 30
	childAddress = 4 << 30
)

// The answers of a child begin with one of these, once, before any text.
const (
	helloSandboxed = 's'
	helloBare      = 'b'
)

// Main answers texts from stdin on stdout until stdin ends, and exits. A
// binary that runs a Pool calls it before anything else when its first
// argument is Argument. It first gives up what it will not need: files,
// descriptors, the network, other programs, memory.
//
// A frame is a length (4 bytes, big endian) and as many bytes: a text towards
// the child, JSON Facts from it.
func Main() { mainFor(Parse) }

func mainFor(parse func(string) *Facts) {
	runtime.GOMAXPROCS(1)
	debug.SetMemoryLimit(childMemory / 4)
	debug.SetMaxStack(childMemory / 4)
	hello := []byte{helloSandboxed}
	if err := sandbox(); err != nil {
		hello = append([]byte{helloBare}, err.Error()...)
	}
	// Read and written by system calls: a child does one thing at a time and
	// needs no poller.
	in, out := bufio.NewReader(fd(0)), bufio.NewWriter(fd(1))
	if err := serve(in, out, hello, parse); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(in *bufio.Reader, out *bufio.Writer, hello []byte, parse func(string) *Facts) error {
	if err := writeFrame(out, hello); err != nil {
		return err
	}
	for {
		text, err := readFrame(in, maxRequest)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		facts := parse(string(text))
		facts.Last = processorTime() > childCPU
		answer, err := encode(facts)
		if err != nil {
			return err
		}
		if err := writeFrame(out, answer); err != nil {
			return err
		}
		if facts.Last {
			return nil
		}
	}
}

// maxRequest bounds what a child accepts; a Pool's limit is lower.
const maxRequest = 16 << 20

func readFrame(r io.Reader, limit uint32) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > limit {
		return nil, fmt.Errorf("a frame of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return b, nil
}

func writeFrame(w *bufio.Writer, b []byte) error {
	var head [4]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(b)))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	return w.Flush()
}

// fd is a descriptor, read and written without the runtime's poller.
type fd int

func (f fd) Read(b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(f), b)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, err
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (f fd) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := syscall.Write(int(f), b[done:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
