package mcp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// event is one of a stream of server-sent events (the HTML standard, section
// 9.2), or a message that came in another way.
type event struct {
	id, retry string
	hasID     bool
	data      []byte // nil is none
}

// events reads a stream. It takes nothing that readers split differently.
type events struct {
	br    *bufio.Reader
	limit int // bytes of one message
	begun bool
}

// maxFraming is how many bytes of an event may be there besides its message.
const maxFraming = 4096

var (
	errTooLarge = errors.New("a message of the server exceeds the limit")
	errStream   = errors.New("the server's stream is not one of events")
)

// next returns the next event, or a keep-alive: one without anything. Events of
// other types than messages are left out, since no client of the protocol reads
// them.
func (s *events) next() (*event, error) {
	for {
		e, typ, err := s.read()
		if err != nil || typ == "" || typ == "message" {
			return e, err
		}
	}
}

func (s *events) read() (e *event, typ string, err error) {
	e = &event{}
	left, any := s.limit+maxFraming, false
	for {
		line, err := s.line(&left)
		if err != nil {
			if errors.Is(err, io.EOF) && any { // an event without its end is none
				err = io.ErrUnexpectedEOF
			}
			return nil, "", err
		}
		if len(line) == 0 {
			if any {
				return e, typ, nil
			}
			continue
		}
		any = true
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "data":
			if e.data != nil {
				e.data = append(e.data, '\n')
			} else {
				e.data = []byte{}
			}
			e.data = append(e.data, value...)
		case "event":
			typ = string(value)
		case "id":
			e.id, e.hasID = string(value), true
		case "retry":
			e.retry = string(value)
		}
		if len(e.data) > s.limit {
			return nil, "", errTooLarge
		}
		if len(e.id) > 1024 || strings.ContainsRune(e.id, 0) || strings.Trim(e.retry, "0123456789") != "" {
			return nil, "", errStream
		}
	}
}

// line reads a line and takes off its end.
func (s *events) line(left *int) ([]byte, error) {
	var line []byte
	for {
		part, err := s.br.ReadSlice('\n')
		if *left -= len(part); *left < 0 {
			return nil, errTooLarge
		}
		line = append(line, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			if errors.Is(err, io.EOF) && len(line) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		break
	}
	line = bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
	if bytes.IndexByte(line, '\r') >= 0 || !s.begun && bytes.HasPrefix(line, []byte("\uFEFF")) {
		return nil, errStream
	}
	s.begun = true
	return line, nil
}

// append writes an event: what was read of it and nothing else.
func (e *event) append(b []byte) []byte {
	if !e.hasID && e.retry == "" && e.data == nil {
		return append(b, ":\n\n"...) // keeps the connection alive
	}
	if e.hasID {
		b = fmt.Appendf(b, "id: %s\n", e.id)
	}
	if e.retry != "" {
		b = fmt.Appendf(b, "retry: %s\n", e.retry)
	}
	if e.data != nil {
		for line := range bytes.SplitSeq(e.data, []byte("\n")) {
			b = append(append(append(b, "data: "...), line...), '\n')
		}
	}
	return append(b, '\n')
}
