package postgres

import (
	"bytes"
	"testing"
)

// FuzzFrames holds the parsers of frames to two things: they don't panic, and
// what they call well formed lies within the frame.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("Q\x00\x00\x00\x0dselect 1\x00"))
	f.Add([]byte("P\x00\x00\x00\x10s\x00select $1\x00\x00\x00"))
	f.Add([]byte("B\x00\x00\x00\x14\x00s\x00\x00\x00\x00\x01\x00\x00\x00\x011\x00\x00"))
	f.Add([]byte("B\x00\x00\x00\x12\x00s\x00\x00\x00\x00\x01\xff\xff\xff\xff\x00\x00"))
	f.Add([]byte("F\x00\x00\x00\x1b\x00\x00\x03\xbb\x00\x01\x00\x01\x00\x02\x00\x00\x00\x011\xff\xff\xff\xff\x00\x01"))
	f.Add([]byte("E\x00\x00\x00\x09\x00\x00\x00\x00\x02"))
	f.Add([]byte("D\x00\x00\x00\x06S\x00"))
	f.Add([]byte("E\x00\x00\x00\x20SERROR\x00C42501\x00Mno\x00\x00"))
	f.Add([]byte("C\x00\x00\x00\x0eSELECT 10\x00"))
	f.Add([]byte("d\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerSize {
			return
		}
		size, err := checkFrontend(b, 1<<20)
		if err == nil && (size < headerSize || frontendFrames[b[0]].kind != copyFrame && size > 1<<20+headerSize) {
			t.Fatalf("%q has %d bytes", b[0], size)
		}
		body := b[headerSize:]
		if text, err := parseQuery(body); err == nil && (bytes.IndexByte(text, 0) >= 0 || len(text)+1 != len(body)) {
			t.Errorf("a Query of %q is %q", body, text)
		}
		if name, text, err := parseParse(body); err == nil && len(name)+len(text)+4 > len(body) {
			t.Errorf("a Parse of %q is %q, %q", body, name, text)
		}
		within := func(what string, values [][]byte, err error) {
			n := 0
			for _, v := range values {
				n += 4 + len(v)
			}
			if err == nil && n > len(body) {
				t.Errorf("a %s of %d bytes holds values of %d", what, len(body), n)
			}
		}
		_, _, values, err := parseBind(body, nil)
		within("Bind", values, err)
		oid, values, err := parseFunctionCall(body, nil)
		within("FunctionCall", values, err)
		spellCall(oid, len(values))
		_, _, _ = parseExecute(body)
		_, _, _ = parseObject(body)
		_, _, _ = parseParameterStatus(body)
		tagRows(body)
		if e := parseError(body); len(e.code) != 5 || len(e.detail) > maxDetail {
			t.Errorf("an error of %q is %+v", body, e)
		}
	})
}

// FuzzStartup holds the startup's parser to the same, and to a list of
// settings: whatever is sent, no other reaches the server.
func FuzzStartup(f *testing.F) {
	f.Add(uint32(3<<16), []byte("user\x00a\x00database\x00b\x00options\x00-c search_path=x --work-mem=1\x00\x00"))
	f.Add(uint32(3<<16|2), []byte("user\x00a\x00_pq_.x\x00y\x00replication\x00database\x00\x00"))
	f.Add(uint32(3<<16|9999), []byte("user\x00a\x00options\x00-c role\\=admin\x00\x00"))
	f.Fuzz(func(t *testing.T, code uint32, rest []byte) {
		s, err := parseStartup(code, rest)
		if err != nil {
			return
		}
		if s.user == "" || s.minor != 0 && s.minor != 2 {
			t.Errorf("%+v", s)
		}
		s.appendNegotiate(nil)
		params, refused := s.upstreamParams()
		if (params == nil) == (refused == nil) {
			t.Errorf("%v and %v", params, refused)
		}
		for name := range params {
			if !allowedParameters[name] {
				t.Errorf("%q reaches the server", name)
			}
		}
		if refused == nil && params["client_encoding"] != "UTF8" {
			t.Errorf("client_encoding is %q", params["client_encoding"])
		}
	})
}
