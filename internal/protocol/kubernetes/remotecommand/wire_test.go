package remotecommand

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/moby/spdystream/spdy"
)

// frame is a WebSocket frame as a client sends it, or a server.
func frame(head byte, masked bool, content string) []byte {
	b := []byte{head}
	mask := byte(0)
	if masked {
		mask = 0x80
	}
	switch n := len(content); {
	case n < 126:
		b = append(b, mask|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(n))
	}
	if !masked {
		return append(b, content...)
	}
	key := []byte{1, 2, 3, 4}
	b = append(b, key...)
	for i := range len(content) {
		b = append(b, content[i]^key[i%4])
	}
	return b
}

// spdyWriter writes frames as clients do.
type spdyWriter struct {
	bytes.Buffer
	*spdy.Framer
}

func newSPDYWriter(t testing.TB) *spdyWriter {
	w := &spdyWriter{}
	var err error
	if w.Framer, err = spdy.NewFramer(&w.Buffer, nil); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *spdyWriter) frames(t testing.TB, list ...spdy.Frame) []byte {
	for _, f := range list {
		if err := w.WriteFrame(f); err != nil {
			t.Fatal(err)
		}
	}
	return slices.Clone(w.Bytes())
}

func opening(id spdy.StreamId, kind string) spdy.Frame {
	return &spdy.SynStreamFrame{StreamId: id, Headers: http.Header{"Streamtype": {kind}}}
}

// said is what a reader makes of bytes that come in pieces.
func said(r reader, b []byte, piece int) (string, error) {
	var order []string
	content := make(map[string]string)
	for len(b) > 0 {
		n := min(piece, len(b))
		if err := r.read(b[:n], func(stream string, c []byte) {
			if content[stream] == "" {
				order = append(order, stream)
			}
			content[stream] += string(c)
		}); err != nil {
			return "", err
		}
		b = b[n:]
	}
	var out strings.Builder
	for _, s := range order {
		fmt.Fprintf(&out, "%s=%q ", s, content[s])
	}
	return out.String(), nil
}

func spdyReader(t testing.TB, client bool) reader {
	s := &streams{kinds: make(map[uint32]string)}
	if !client {
		s.kinds[1], s.kinds[3] = failed, stdout
	}
	r, err := newSPDY(s, client, 4)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// However the bytes are cut, the same is read.
func TestContentIsReadHoweverItComes(t *testing.T) {
	long := strings.Repeat("x", 70000)
	socket := slices.Concat(frame(0x82, true, "\x00ls\n"), frame(0x89, true, "ping"), frame(0x82, true, ""), frame(0x82, true, "\x04{}"), frame(0x82, true, "\x00"+long), frame(0x82, true, "\xff\x00"))
	typed := newSPDYWriter(t).frames(t, opening(1, failed), opening(3, stdin), opening(5, resize), &spdy.PingFrame{Id: 1},
		&spdy.DataFrame{StreamId: 3, Data: []byte("ls\n")}, &spdy.DataFrame{StreamId: 5, Data: []byte("{}")}, &spdy.DataFrame{StreamId: 3, Data: []byte(long), Flags: spdy.DataFlagFin})
	encoded := slices.Concat(frame(0x81, true, "0bHMK"), frame(0x81, true, "4e30="))
	for name, c := range map[string]struct {
		new  func() reader
		b    []byte
		want string
	}{
		"websocket": {func() reader { return newFrames(true, false, 5) }, socket, fmt.Sprintf("stdin=%q resize=%q ", "ls\n"+long, "{}")},
		"base64":    {func() reader { return newFrames(true, true, 4) }, encoded, `stdin="ls\n" resize="{}" `},
		"spdy":      {func() reader { return spdyReader(t, true) }, typed, fmt.Sprintf("stdin=%q resize=%q ", "ls\n"+long, "{}")},
	} {
		for _, piece := range []int{1, 2, 3, 7, 1000, 1 << 20} {
			if got, err := said(c.new(), c.b, piece); err != nil || got != c.want {
				t.Errorf("%s in pieces of %d: %.80s, %v", name, piece, got, err)
			}
		}
	}
}

// What servers read in different ways, or what isn't the protocol's, ends the
// connection.
func TestHostileFrames(t *testing.T) {
	control := func(kind byte, length int, rest ...byte) []byte {
		return append([]byte{0x80, 3, 0, kind, 0, byte(length >> 16), byte(length >> 8), byte(length)}, rest...)
	}
	spdyOf := func(list ...spdy.Frame) []byte { return newSPDYWriter(t).frames(t, list...) }
	bomb := newSPDYWriter(t).frames(t, &spdy.SynStreamFrame{StreamId: 1, Headers: http.Header{"Streamtype": {strings.Repeat("a", 1<<20)}}})
	for name, c := range map[string]struct {
		r reader
		b []byte
	}{
		"message in several frames": {newFrames(true, false, 5), frame(0x02, true, "\x00l")},
		"continuation":              {newFrames(true, false, 5), frame(0x80, true, "s\n")},
		"extension":                 {newFrames(true, false, 5), frame(0xc2, true, "\x00ls")},
		"unmasked":                  {newFrames(true, false, 5), frame(0x82, false, "\x00ls -l")},
		"masked by a server":        {newFrames(false, false, 5), frame(0x82, true, "\x01ls")},
		"unknown kind":              {newFrames(true, false, 5), frame(0x83, true, "\x00ls")},
		"unknown channel":           {newFrames(true, false, 5), frame(0x82, true, "\x05ls")},
		"closing before version 5":  {newFrames(true, false, 4), frame(0x82, true, "\xff\x00")},
		"content of closing":        {newFrames(true, false, 5), frame(0x82, true, "\xff\x00rm -rf /")},
		"long control frame":        {newFrames(true, false, 5), frame(0x88, true, strings.Repeat("x", 126))},
		"endless frame":             {newFrames(true, false, 5), []byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}},
		"base64 in two ways":        {newFrames(true, true, 4), frame(0x81, true, "0bH\nMK")},
		"base64 behind its end":     {newFrames(true, true, 4), frame(0x81, true, "0e30=bHMK")},
		"base64 that breaks off":    {newFrames(true, true, 4), frame(0x81, true, "0bHM")},

		"content of no stream":     {spdyReader(t, true), spdyOf(&spdy.DataFrame{StreamId: 3, Data: []byte("ls")})},
		"unknown stream":           {spdyReader(t, true), spdyOf(opening(1, "shell"))},
		"stream twice":             {spdyReader(t, true), spdyOf(opening(3, stdin), opening(3, resize))},
		"a server's stream":        {spdyReader(t, true), spdyOf(opening(2, stdin))},
		"stream without a kind":    {spdyReader(t, true), spdyOf(&spdy.SynStreamFrame{StreamId: 1, Headers: http.Header{"A": {"b"}}})},
		"stream of two kinds":      {spdyReader(t, true), spdyOf(&spdy.SynStreamFrame{StreamId: 1, Headers: http.Header{"Streamtype": {stdin, stdout}}})},
		"many streams":             {spdyReader(t, true), spdyOf(opening(1, stdin), opening(3, stdin), opening(5, stdin), opening(7, stdin), opening(9, stdin), opening(11, stdin), opening(13, stdin), opening(15, stdin), opening(17, stdin), opening(19, stdin), opening(21, stdin), opening(23, stdin), opening(25, stdin), opening(27, stdin), opening(29, stdin), opening(31, stdin), opening(33, stdin))},
		"fields later":             {spdyReader(t, true), spdyOf(opening(1, stdin), &spdy.HeadersFrame{StreamId: 1, Headers: http.Header{"Streamtype": {resize}}})},
		"opened by the upstream":   {spdyReader(t, false), spdyOf(opening(5, stdout))},
		"another version":          {spdyReader(t, true), []byte{0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1}},
		"longer than it is":        {spdyReader(t, true), control(6, 12, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0)},
		"shorter than it is":       {spdyReader(t, true), control(6, 2, 0, 0)},
		"unknown control frame":    {spdyReader(t, true), control(11, 4, 0, 0, 0, 1)},
		"large control frame":      {spdyReader(t, true), control(1, 1<<20)},
		"a field that is too long": {spdyReader(t, true), bomb},
	} {
		if got, err := said(c.r, c.b, 5); !errors.Is(err, errProtocol) {
			t.Errorf("%s: read as %.80q, %v", name, got, err)
		}
	}
}

func TestOnlyKnownSubprotocolsAreAskedFor(t *testing.T) {
	for list, want := range map[string]bool{
		"":                  true,
		"v5.channel.k8s.io": true,
		"v4.channel.k8s.io, base64.channel.k8s.io":                          true,
		"base64url.bearer.authorization.k8s.io.c2VjcmV0, v4.channel.k8s.io": false,
		"SPDY/3.1+portforward.k8s.io":                                       false,
	} {
		if got := Offered(http.Header{"Sec-Websocket-Protocol": {list}}); got != want {
			t.Errorf("%q may be asked for: %v", list, got)
		}
	}
}

// Nothing that comes makes a reader fail otherwise than by an error.
func FuzzReaders(f *testing.F) {
	f.Add(frame(0x82, true, "\x00ls\n"), 3)
	f.Add(frame(0x81, true, "0bHMK"), 1)
	f.Add(newSPDYWriter(f).frames(f, opening(1, failed), opening(3, stdin), &spdy.DataFrame{StreamId: 3, Data: []byte("ls\n")}), 7)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		piece = 1 + piece&63
		for _, make := range []func() reader{
			func() reader { return newFrames(true, false, 5) }, func() reader { return newFrames(true, true, 4) },
			func() reader { return newFrames(false, false, 5) }, func() reader { return spdyReader(t, true) }, func() reader { return spdyReader(t, false) },
		} {
			got, err := said(make(), b, piece)
			whole, werr := said(make(), b, len(b)+1)
			if (err == nil) != (werr == nil) || err == nil && got != whole {
				t.Errorf("in pieces of %d it is %q, %v; as a whole %q, %v", piece, got, err, whole, werr)
			}
		}
	})
}
