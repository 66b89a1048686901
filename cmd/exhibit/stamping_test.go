package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/config"
	"github.com/exhibit-gateway/exhibit/internal/seal/stamptest"
)

func TestRootsOfTimeStampAuthorities(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a := stamptest.New("tsa.example.org", stamptest.Certificate{})
	good := config.Authority{URL: "http://tsa.example.org", CA: write("ca.pem", a.PEM()), Policy: "1.2.3.4.1"}
	s, err := stampingOf(config.Timestamps{Authorities: []config.Authority{good}, Interval: time.Minute, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Authorities[0]; !got.Roots.Equal(a.Roots()) || !got.Policy.Equal(a.Policy) || got.URL != good.URL || s.Interval != time.Minute || s.Timeout != time.Second {
		t.Errorf("%+v", s)
	}
	for name, c := range map[string]struct{ ca, want string }{
		"no file":        {filepath.Join(dir, "none.pem"), "log.timestamps.authorities[1].ca: open "},
		"no certificate": {write("empty.pem", []byte("hello")), "empty.pem holds no certificate in PEM"},
	} {
		_, err := stampingOf(config.Timestamps{Authorities: []config.Authority{good, {URL: "http://b", CA: c.ca}}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
