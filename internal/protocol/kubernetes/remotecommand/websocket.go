package remotecommand

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
)

// frames reads one direction of a WebSocket (RFC 6455): each message begins with
// the number of a channel, and its rest is content.
//
// Some servers join a message's frames and some take each for a message of its
// own, so one that comes in several is refused; clients send none, for the
// servers' sake.
type frames struct {
	masked  bool // as a client's are
	encoded bool // the channel is a digit, and the content base64
	version int

	head  []byte // of the frame, until it is whole
	key   [4]byte
	left  uint64 // bytes of the frame that haven't come
	at    int    // which of the mask's bytes is next
	op    byte
	begun bool   // the channel is known
	to    string // where the content goes; "" is nowhere
	quad  []byte // of base64, until there are four
	last  bool   // its end has come
	bye   bool   // nothing more comes
}

func newFrames(masked, encoded bool, version int) *frames {
	return &frames{masked: masked, encoded: encoded, version: version}
}

const (
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPong   = 10

	closing    = 255 // the channel whose content is the number of one that ends, since version 5
	mostDigits = 4
)

// ended implements reader. Channels don't end by themselves: it has when the
// upstream says goodbye.
func (f *frames) ended() bool { return f.bye }

func (f *frames) read(b []byte, out func(string, []byte)) error {
	for len(b) > 0 {
		if f.left == 0 {
			n, err := f.header(b)
			if err != nil {
				return err
			}
			b = b[n:]
			continue
		}
		n := int(min(uint64(len(b)), f.left))
		content := b[:n]
		b, f.left = b[n:], f.left-uint64(n)
		if f.op >= opClose {
			continue
		}
		if f.masked { // what goes on stays masked
			content = slices.Clone(content)
			for i := range content {
				content[i] ^= f.key[(f.at+i)%len(f.key)]
			}
		}
		f.at += n
		if err := f.content(content, out); err != nil {
			return err
		}
		if f.left == 0 && len(f.quad) > 0 {
			return fmt.Errorf("%w: base64 that breaks off", errProtocol)
		}
	}
	return nil
}

// header takes bytes of a frame's header, and returns how many.
func (f *frames) header(b []byte) (int, error) {
	taken := 0
	for {
		need := f.needs()
		if len(f.head) == need {
			break
		}
		n := min(need-len(f.head), len(b)-taken)
		f.head = append(f.head, b[taken:taken+n]...)
		if taken += n; len(f.head) < need {
			return taken, nil
		}
	}
	h := f.head
	f.head = f.head[:0]
	op, length := h[0]&0x0f, uint64(h[1]&0x7f)
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(h[2:]))
	case 127:
		length = binary.BigEndian.Uint64(h[2:])
	}
	switch {
	case h[0]&0x70 != 0:
		return taken, fmt.Errorf("%w: an extension that nobody agreed on", errProtocol)
	case (h[1]&0x80 != 0) != f.masked:
		return taken, fmt.Errorf("%w: a mask where none may be, or none where one must", errProtocol)
	case h[0]&0x80 == 0, op == 0:
		return taken, fmt.Errorf("%w: a message in several frames", errProtocol)
	case op != opText && op != opBinary && (op < opClose || op > opPong):
		return taken, fmt.Errorf("%w: a frame of an unknown kind", errProtocol)
	case op >= opClose && length > 125, length > 1<<62:
		return taken, fmt.Errorf("%w: a frame that is too long", errProtocol)
	}
	if f.masked {
		copy(f.key[:], h[len(h)-len(f.key):])
	}
	f.bye = f.bye || op == opClose && !f.masked
	f.op, f.left, f.at, f.begun, f.to, f.last = op, length, 0, false, "", false
	return taken, nil
}

// needs is how long the header is, as far as is known.
func (f *frames) needs() int {
	if len(f.head) < 2 {
		return 2
	}
	n := 2
	switch f.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.masked {
		n += len(f.key)
	}
	return n
}

// content takes content of a message: its channel first.
func (f *frames) content(b []byte, out func(string, []byte)) error {
	if !f.begun {
		channel := int(b[0])
		if f.encoded {
			channel -= '0'
		}
		switch {
		case channel >= 0 && channel < len(channels):
			f.to = channels[channel]
		case channel != closing || f.version < 5 || f.left+uint64(len(b)) > 2:
			return fmt.Errorf("%w: content of an unknown channel", errProtocol)
		}
		f.begun = true
		b = b[1:]
	}
	if f.encoded {
		var err error
		if b, err = f.decode(b); err != nil {
			return err
		}
	}
	if f.to != "" && len(b) > 0 {
		out(f.to, b)
	}
	return nil
}

// decode takes base64 as it comes. Line breaks and content behind the end, which
// some decoders pass over, are refused.
func (f *frames) decode(b []byte) ([]byte, error) {
	var content []byte
	for _, c := range b {
		if f.last || c == '\r' || c == '\n' {
			return nil, fmt.Errorf("%w: base64 that can be read in two ways", errProtocol)
		}
		if f.quad = append(f.quad, c); len(f.quad) < mostDigits {
			continue
		}
		f.last = c == '='
		var err error
		if content, err = base64.StdEncoding.AppendDecode(content, f.quad); err != nil {
			return nil, fmt.Errorf("%w: no base64", errProtocol)
		}
		f.quad = f.quad[:0]
	}
	return content, nil
}
