package remotecommand

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/moby/spdystream/spdy"
)

// streams are those of a SPDY connection: the client opens them all, and says by
// a field what each is for.
type streams struct {
	mu     sync.Mutex
	kinds  map[uint32]string
	newest uint32
}

// mostStreams bounds those of one command, which has at most five.
const mostStreams = 16

// open takes in a stream.
func (s *streams) open(f *spdy.SynStreamFrame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	kinds := f.Headers["Streamtype"]
	switch id := uint32(f.StreamId); {
	case id%2 == 0, id <= s.newest, len(s.kinds) >= mostStreams:
		return fmt.Errorf("%w: a stream out of turn", errProtocol)
	case len(kinds) != 1 || !known(kinds[0]):
		return fmt.Errorf("%w: a stream that isn't one of a command's", errProtocol)
	case f.CFHeader.Flags&spdy.ControlFlagUnidirectional != 0:
		return fmt.Errorf("%w: a stream in one direction", errProtocol)
	default:
		s.kinds[id], s.newest = kinds[0], id
		return nil
	}
}

func known(kind string) bool {
	for _, k := range channels {
		if k == kind {
			return true
		}
	}
	return false
}

func (s *streams) kind(id uint32) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kinds[id]
}

// framing reads one direction of a SPDY/3.1 connection. Control frames are read
// by the library that clients and servers use, each by itself and exactly to its
// end: a frame that says another length than it has would shift what follows,
// and not for everybody to the same place. Data is counted and passed over as it
// comes.
type framing struct {
	*streams
	client  bool
	version int
	control *spdy.Framer
	whole   bytes.Buffer // of a control frame

	head []byte // of the frame, until it is whole
	left int    // bytes of the frame that haven't come
	data bool   // it is one of data
	fin  bool   // with which its stream ends
	kind string
	last bool // how the command ended has been said
}

const (
	spdyHead     = 8        // bytes of a frame's header
	mostControl  = 16 << 10 // bytes of a control frame
	mostField    = 1 << 10  // bytes of a field's name or value
	mostFields   = 32
	spdyVersion  = 3
	flagFin      = 1
	controlFrame = 0x80
)

func newSPDY(s *streams, client bool, version int) (*framing, error) {
	f := &framing{streams: s, client: client, version: version}
	var err error
	f.control, err = spdy.NewFramerWithOptions(io.Discard, &f.whole,
		spdy.WithMaxControlFramePayloadSize(mostControl), spdy.WithMaxHeaderFieldSize(mostField), spdy.WithMaxHeaderCount(mostFields))
	return f, err
}

// ended implements reader: it has when the stream ends that says so, or all do.
func (f *framing) ended() bool { return f.last }

func (f *framing) read(b []byte, out func(string, []byte)) error {
	for len(b) > 0 {
		if f.left == 0 {
			n := min(spdyHead-len(f.head), len(b))
			f.head, b = append(f.head, b[:n]...), b[n:]
			if len(f.head) < spdyHead {
				return nil
			}
			if err := f.header(); err != nil {
				return err
			}
			f.head = f.head[:0]
		}
		n := min(len(b), f.left)
		content := b[:n]
		b, f.left = b[n:], f.left-n
		if !f.data {
			f.whole.Write(content)
		} else if n > 0 {
			out(f.kind, content)
		}
		if f.left > 0 {
			continue
		}
		if err := f.frame(); err != nil {
			return err
		}
	}
	return nil
}

// header takes in a frame's header.
func (f *framing) header() error {
	h := f.head
	f.data = h[0]&controlFrame == 0
	f.fin = h[4]&flagFin != 0
	f.left = int(binary.BigEndian.Uint32(h[4:]) & 0xffffff)
	if f.data {
		if f.kind = f.streams.kind(binary.BigEndian.Uint32(h)); f.kind == "" {
			return fmt.Errorf("%w: content of a stream that isn't open", errProtocol)
		}
		return nil
	}
	if f.left > mostControl || binary.BigEndian.Uint16(h)&0x7fff != spdyVersion {
		return fmt.Errorf("%w: a control frame that is too long, or of another version", errProtocol)
	}
	f.whole.Reset()
	f.whole.Write(h)
	return nil
}

// frame takes in a frame that has come in full.
func (f *framing) frame() error {
	if f.data {
		f.last = f.last || f.fin && !f.client && f.kind == failed
		f.data = false
		return nil
	}
	frame, err := f.control.ReadFrame()
	if err != nil || f.whole.Len() > 0 {
		return fmt.Errorf("%w: a control frame that can't be read", errProtocol)
	}
	switch frame := frame.(type) {
	case *spdy.SynStreamFrame:
		if !f.client {
			return fmt.Errorf("%w: the upstream opens a stream", errProtocol)
		}
		return f.open(frame)
	case *spdy.HeadersFrame: // in which a server might look for what a stream is for
		return fmt.Errorf("%w: fields behind a stream's beginning", errProtocol)
	case *spdy.SynReplyFrame:
		if f.client {
			return fmt.Errorf("%w: the agent answers a stream", errProtocol)
		}
		f.last = f.last || frame.CFHeader.Flags&spdy.ControlFlagFin != 0 && f.streams.kind(uint32(frame.StreamId)) == failed
	case *spdy.RstStreamFrame:
		f.last = f.last || !f.client && f.version > 1 && f.streams.kind(uint32(frame.StreamId)) == failed
	case *spdy.GoAwayFrame:
		f.last = f.last || !f.client
	}
	return nil
}
