package demo

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// billing is a service that agents reach over HTTP. It knows one account, the
// gateway's, and keeps what it was asked.
type billing struct {
	http.Server
	address string

	mu    sync.Mutex
	asked []string
}

// billingKey proves the gateway to the service.
const billingKey = "of-the-billing-service"

func startBilling(ctx context.Context) (*billing, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &billing{address: l.Addr().String()}
	b.Handler, b.ReadHeaderTimeout = b, 10*time.Second
	go b.Serve(l) //nolint:errcheck // it ends with the demo
	return b, nil
}

func (b *billing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.asked = append(b.asked, r.Method+" "+r.URL.Path)
	b.mu.Unlock()
	if r.Header.Get("X-Api-Key") != billingKey {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	fmt.Fprintf(w, "%s, for %s\n", r.URL.Path, onBehalf(r.Header.Get("Exhibit-Identity")))
}

// onBehalf reads whom a JWT names. A service that believed it would check its
// signature first, with the gateway's keys.
func onBehalf(jwt string) string {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return "nobody"
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "nobody"
	}
	return string(claims)
}

func (b *billing) saw(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(strings.Join(b.asked, "\n"), text)
}

// addBilling writes the service into the configuration.
func (d *day) addBilling() error {
	if err := os.WriteFile(d.path("billing.key"), []byte(billingKey+"\n"), 0o600); err != nil {
		return err
	}
	return d.configure(func(text []byte) []byte {
		return bytes.Replace(text, []byte("\nresources:\n"), fmt.Appendf(nil, `
  - {name: web, protocol: http, address: '%s'}

resources:
  - name: billing
    protocol: http
    upstream: {address: '%s', header: {name: X-Api-Key, value: {file: billing.key}}}
    http: {prefix: /billing, identity: true, routes: ['GET /invoices/{id}', 'DELETE /invoices/{id}']}
`, d.web, d.billing.address), 1)
	})
}

// configure changes the configuration.
func (d *day) configure(change func(text []byte) []byte) error {
	text, err := os.ReadFile(d.path("exhibit.yaml"))
	if err != nil {
		return err
	}
	changed := change(bytes.Clone(text))
	if bytes.Equal(changed, text) {
		return errors.New("the configuration isn't the one that the demo knows")
	}
	return os.WriteFile(d.path("exhibit.yaml"), changed, 0o644)
}

// services reaches a service over HTTP, with curl.
func (d *day) services(ctx context.Context) error {
	d.title("A service over HTTP")
	if _, err := d.exhibit(ctx, "grant", "add", "--agent", "reporter", "--role", "reader", "--resource", "billing", "--for", "8h", "--ticket", "OPS-3"); err != nil {
		return err
	}
	out, err := d.curl(ctx, "/billing/invoices/17")
	d.must(err == nil && strings.Contains(out, `"sub":"reporter"`) && strings.Contains(out, "/invoices/17"), "a request passes; the service has the gateway's key, and learns for whom it asks")
	out, err = d.curl(ctx, "/billing/invoices/17", "-X", "DELETE")
	d.must(err != nil && strings.Contains(out, "refused") && !d.billing.saw("DELETE"), "another method is refused, and never reached the service")
	out, err = d.curl(ctx, "/billing/invoices/../admin", "--path-as-is")
	d.must(err != nil && strings.Contains(out, "dot segment") && !d.billing.saw("admin"), "a path that could be read in two ways is refused")
	out, err = d.exhibit(ctx, "did", "--agent", "reporter")
	d.must(err == nil && strings.Contains(out, "GET /invoices/{id}") && strings.Contains(out, "denied"), "the record holds templates; what was asked exactly is sealed")
	return nil
}

// curl asks the service as the reporter.
func (d *day) curl(ctx context.Context, path string, args ...string) (string, error) {
	return d.curlAs(ctx, "reporter", "", "http://"+d.web+path, args...)
}

// curlAs asks the gateway as an agent. The token stands in a file, so that none
// is shown.
func (d *day) curlAs(ctx context.Context, agent, ticket, url string, args ...string) (string, error) {
	token, err := d.token(ctx, agent, ticket)
	if err != nil {
		return "", err
	}
	header := d.path(agent + ".header")
	if err := os.WriteFile(header, []byte("Authorization: Bearer "+token+"\n"), 0o600); err != nil {
		return "", err
	}
	return d.run(ctx, nil, append([]string{"curl", "-sS", "--fail-with-body", "-H", "@" + header, url}, args...)...)
}
