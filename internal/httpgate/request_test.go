package httpgate

import (
	"bufio"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// read reads a request as an HTTP server does.
func read(t *testing.T, text string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return r
}

func TestPathsAreWrittenInOneWay(t *testing.T) {
	for path, want := range map[string]string{
		"/":                  "/",
		"/a/b":               "/a/b",
		"/a/b/":              "/a/b/",
		"/%61%2d%7E":         "/a-~",
		"/caf%c3%a9":         "/caf%C3%A9",
		"/a;v=1/b,c":         "/a;v=1/b,c",
		"/a@b:c!$&'()*+=":    "/a@b:c!$&'()*+=",
		"/a%20b":             "/a%20b",
		"/.hidden/..x/a..b/": "/.hidden/..x/a..b/",
		"/%2525":             "/%2525",
	} {
		got, err := NormalPath(path)
		if err != nil || got != want {
			t.Errorf("%q is %q, %v; want %q", path, got, err, want)
		}
		again, err := NormalPath(got)
		if err != nil || again != got {
			t.Errorf("%q is %q the second time, %v", got, again, err)
		}
	}
}

func TestPathsThatServersReadInTwoWaysAreRefused(t *testing.T) {
	for _, path := range []string{
		"", "a", "//", "//a", "/a//b", "/a//", "/.", "/..", "/a/../b", "/a/..", "/a/./b", "/%2e%2e/a", "/%2E./a", "/a/..;/b", "/..;x=1", "/.;/a",
		"/a%2fb", "/a%2Fb", "/a%5cb", `/a\b`, "/a%00", "/a%0d%0aX", "/a%7f", "/a%", "/a%2", "/a%zz", "/a b", "/a\x7f", "/a<b", "/a\"b", "/\xff", "/a#b",
	} {
		if got, err := NormalPath(path); !errors.Is(err, errMalformed) {
			t.Errorf("%q became %q, %v", path, got, err)
		}
	}
}

func FuzzNormalPath(f *testing.F) {
	for _, seed := range []string{"/a/b", "/%2e%2e/", "/a%2Fb", "//", "/..;/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, err := NormalPath(path)
		if err != nil {
			return
		}
		if again, err := NormalPath(got); err != nil || again != got {
			t.Fatalf("%q became %q and then %q, %v", path, got, again, err)
		}
		for s := range strings.SplitSeq(strings.TrimSuffix(got[1:], "/"), "/") {
			if name, _, _ := strings.Cut(s, ";"); s == "" && got != "/" || name == "." || name == ".." {
				t.Fatalf("%q became %q", path, got)
			}
		}
	})
}

func TestFieldsThatArePassedOn(t *testing.T) {
	r := read(t, "POST /x/y?q=1 HTTP/1.1\r\nHost: svc\r\nAuthorization: Bearer secret\r\nAccept: a, b\r\nX-Trace: 1\r\n"+
		"Connection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: 1\r\nTE: trailers, deflate\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"+
		"X-Forwarded-For: 10.0.0.1\r\nX_Forwarded_Host: evil\r\nexhibit-identity: forged\r\nX-HTTP-Method-Override: DELETE\r\nForwarded: for=x\r\n"+
		"Impersonate-User: root\r\nContent-Length: 2\r\n\r\nhi")
	n, err := normalise(r, "/x")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range n.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	if got, want := strings.Join(names, " "), "Accept Te X-Trace"; got != want {
		t.Errorf("passed on: %s; want %s", got, want)
	}
	if got, want := strings.Join(n.Stripped, " "), "exhibit-identity forwarded impersonate-user x-forwarded-for x-http-method-override x_forwarded_host"; got != want {
		t.Errorf("stripped: %s; want %s", got, want)
	}
	if n.Path != "/y" || n.Query != "q=1" || n.Header.Get("Te") != "trailers" || n.Upgrade {
		t.Errorf("it is %q %q %v", n.Path, n.Query, n.Header)
	}
}

func TestRequestsWithoutANormalForm(t *testing.T) {
	for name, text := range map[string]string{
		"CONNECT":               "CONNECT svc:443 HTTP/1.1\r\nHost: svc:443\r\n\r\n",
		"TRACE":                 "TRACE / HTTP/1.1\r\nHost: svc\r\n\r\n",
		"asterisk":              "OPTIONS * HTTP/1.1\r\nHost: svc\r\n\r\n",
		"other scheme":          "GET ftp://svc/x HTTP/1.1\r\nHost: svc\r\n\r\n",
		"user in URL":           "GET http://a:b@svc/ HTTP/1.1\r\nHost: svc\r\n\r\n",
		"URL without path":      "GET http://svc?x HTTP/1.1\r\nHost: svc\r\n\r\n",
		"dots":                  "GET /a/../b HTTP/1.1\r\nHost: svc\r\n\r\n",
		"query that isn't":      "GET /a?b\xff HTTP/1.1\r\nHost: svc\r\n\r\n",
		"two content types":     "POST / HTTP/1.1\r\nHost: svc\r\nContent-Type: a/b\r\nContent-Type: c/d\r\n\r\n",
		"Connection: cookie":    "GET / HTTP/1.1\r\nHost: svc\r\nConnection: cookie\r\nCookie: a=b\r\n\r\n",
		"WebSocket by POST":     "POST / HTTP/1.1\r\nHost: svc\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
		"WebSocket and content": "GET / HTTP/1.1\r\nHost: svc\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
	} {
		if n, err := normalise(read(t, text), ""); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
	}
}
