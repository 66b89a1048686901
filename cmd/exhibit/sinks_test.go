package main

import (
	"context"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/config"
	"github.com/exhibit-gateway/exhibit/internal/export/sink"
)

// A sink of the configuration is believed by its authority and no other, and
// proves who it is with what its file holds at that moment.
func TestASinkOfTheConfiguration(t *testing.T) {
	var got string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = r.Header.Get("Authorization") + " " + string(b)
	}))
	srv.Config.ErrorLog = nil
	defer srv.Close()
	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "token")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s := config.Sink{
		Name: "siem", URL: srv.URL + "/in", CA: ca, From: "2026-11-01",
		Header: config.UpstreamHeader{Name: "Authorization", Prefix: "Bearer ", Value: config.Secret{File: token}},
	}
	events := []sink.Event{{Pos: evidence.Position{Gateway: "gw1", Boot: 1}, Line: []byte("{}\n")}}
	deliver := func(s config.Sink) error {
		t.Helper()
		list, err := sinksOf([]config.Sink{s})
		if err != nil {
			t.Fatal(err)
		}
		if want := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).UnixMicro(); list[0].From != want || list[0].Name != "siem" || strings.Contains(list[0].To, "/in") {
			t.Errorf("%+v", list[0])
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return list[0].Deliver(ctx, events)
	}
	if err := deliver(s); err == nil {
		t.Error("it delivers without its token")
	}
	for _, value := range []string{"one", "two"} {
		if err := os.WriteFile(token, []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := deliver(s); err != nil || got != "Bearer "+value+" {}\n" {
			t.Errorf("%q arrived, %v", got, err)
		}
	}
	s.CA = ""
	if err := deliver(s); err == nil {
		t.Error("an authority that nobody named is believed")
	}
	for _, bad := range []config.Sink{{Name: "a", URL: srv.URL, CA: token}, {Name: "a", URL: srv.URL, CA: dir + "/none"}, {Name: "a", Syslog: "udp://x:1"}} {
		if _, err := sinksOf([]config.Sink{bad}); err == nil {
			t.Errorf("%+v is put in force", bad)
		}
	}
}
