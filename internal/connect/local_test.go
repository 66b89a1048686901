package connect

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestResourcesAreWrittenAs(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[string]string{
		"orders=postgres://gw.example.com:6433":                       "postgres gw.example.com:6433 , ",
		"orders=postgres://gw.example.com:6433,15432":                 "postgres gw.example.com:6433 tcp,127.0.0.1:15432",
		"orders=postgres://gw.example.com:6433,localhost:15432":       "postgres gw.example.com:6433 tcp,127.0.0.1:15432",
		"orders=postgresql://gw.example.com:6433,[::1]:0":             "postgres gw.example.com:6433 tcp,[::1]:0",
		"orders=postgres://gw.example.com:6433,/run/reporter":         "postgres gw.example.com:6433 unix,/run/reporter/.s.PGSQL.5432",
		"orders=postgres://gw:6433,/run/.s.PGSQL.7":                   "postgres gw:6433 unix,/run/.s.PGSQL.7",
		"orders=postgres://gw:6433,./ends/":                           "postgres gw:6433 unix," + here + "/ends/.s.PGSQL.5432",
		"orders=postgres://gw:6433?sslnegotiation=direct,127.0.0.9:1": "postgres gw:6433 tcp,127.0.0.9:1",
		"orders=postgres:///run/exhibit/pg.sock":                      "postgres  , ",
		"tools=https://gw.example.com/tools,8080":                     "http gw.example.com tcp,127.0.0.1:8080",
		"tools=mcp://gw.example.com:8443,/run/tools.sock":             "http gw.example.com:8443 unix,/run/tools.sock",
		"tools=http://127.0.0.1:8080":                                 "http 127.0.0.1:8080 , ",
	} {
		r, err := ParseResource(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		local := r.network + "," + r.address
		if !r.HasLocal() {
			local = ", "
		}
		if got := r.Protocol + " " + r.gateway.Host + " " + local; got != want {
			t.Errorf("%s is %s, want %s", s, got, want)
		}
	}
	if r, _ := ParseResource("tools=mcp://gw.example.com"); r.gateway.Scheme != "https" {
		t.Errorf("mcp is spoken as %s", r.gateway.Scheme)
	}
}

func TestResourcesAreRefused(t *testing.T) {
	for s, want := range map[string]string{
		"orders":                            "does not begin with the name of a resource",
		"=postgres://gw:1":                  "does not begin with the name",
		"postgres://u:hunter2@gw:1/orders":  "does not begin with the name",
		"orders=gw.example.com:6433":        "is not a URL",
		"orders=10.0.0.7:6433":              "is not a URL",
		"orders=mysql://gw:3306":            `"mysql" is no protocol`,
		"orders=postgres://gw":              "has no host and port",
		"orders=postgres://gw:6433/other":   "names a database",
		"orders=postgres://gw:1?sslmode=no": `has an option "sslmode"`,
		"orders=postgres://u:hunter2@gw:1":  "holds a credential",
		"orders=postgres://gw:6433,":        "nothing follows the comma",
		"orders=postgres://gw:6433,x":       `"x" is no local address`,
		"orders=postgres://gw:1,0.0.0.0:1":  "not only of this machine",
		"orders=postgres://gw:1,:15432":     "not only of this machine",
		"orders=postgres://gw:1,10.0.0.1:1": "not only of this machine",
		"orders=postgres://gw:1,db.local:1": "not only of this machine",
		"tools=http://gw.example.com":       "in the clear",
		"tools=https:///path":               "has no host",
		"tools=https://gw?a=b":              "has a query",
		"tools=https://gw/%zz":              "is not a URL",
	} {
		_, err := ParseResource(s)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) || e.Hint == "" {
			t.Errorf("%s: got %v, want %s, and a hint", s, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: a password is told on: %v", s, err)
		}
	}
}

func TestASocketIsItsOwnersAlone(t *testing.T) {
	folder := filepath.Join(socketFolder(t), "new")
	e, stop := open(t, Config{}, "orders=postgres://127.0.0.1:1,"+folder)
	path := filepath.Join(folder, ".s.PGSQL.5432")
	for p, want := range map[string]os.FileMode{folder: 0o700, path: 0o600} {
		info, err := os.Stat(p)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v, want %v", p, info.Mode().Perm(), err, want)
		}
	}
	if e.List()[0].Host() != folder || e.List()[0].Port() != "5432" {
		t.Errorf("clients find it at %s and %s", e.List()[0].Host(), e.List()[0].Port())
	}
	r, err := ParseResource("orders=postgres://127.0.0.1:1," + folder)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Issuer: &mint{life: 1e12}, Resources: []Resource{r}}); err == nil || !strings.Contains(err.Error(), "somebody answers") {
		t.Errorf("a second one at the same path: %v", err)
	}
	stop()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestASocketOfACrashIsReplaced(t *testing.T) {
	folder := socketFolder(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(folder, ".s.PGSQL.5432")})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	open(t, Config{}, "orders=postgres://127.0.0.1:1,"+folder)
}

func TestAnotherUserIsNotTheAgent(t *testing.T) {
	own := uint32(os.Getuid())
	if err := admitUID(own); err != nil {
		t.Error(err)
	}
	if err := admitUID(own + 1); err == nil {
		t.Error("another user is let in")
	}
	if err := admitUID(0); own != 0 && err == nil {
		t.Error("root is let in")
	}
}
