package mcp

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// metadataPath is where a client finds out how to authorize (RFC 9728). Behind
// it stands the path of the resource.
const metadataPath = "/.well-known/oauth-protected-resource"

// open serves what needs no credential: the metadata of resources. Nobody but
// the gateway's own machine and hosts it knows may be named, so that no web page
// reaches a gateway through the browser of somebody beside it.
func (p *Protocol) open(w http.ResponseWriter, r *http.Request) bool {
	if !p.atHome(r) {
		httpgate.Problem(w, &httpgate.Failure{Status: http.StatusForbidden, Reason: "the request names another host, or comes from a page of another", Hint: "use the gateway's own address"})
		return true
	}
	path, ok := strings.CutPrefix(r.URL.Path, metadataPath)
	if !ok || path != "" && path[0] != '/' {
		return false
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET")
		httpgate.Problem(w, &httpgate.Failure{Status: http.StatusMethodNotAllowed, Reason: "metadata is only read"})
		return true
	}
	if p.find(hostOf(r.Host), path) == nil && path != "" {
		httpgate.Problem(w, &httpgate.Failure{Status: http.StatusNotFound, Reason: "there is no such resource"})
		return true
	}
	m := struct {
		Resource string   `json:"resource"`
		Issuers  []string `json:"authorization_servers,omitempty"`
		Methods  []string `json:"bearer_methods_supported"`
		Name     string   `json:"resource_name"`
	}{Resource: base(r) + path, Methods: []string{"header"}, Name: "Exhibit access gateway"}
	if issuer := p.cfg.Issuer(); issuer != "" {
		m.Issuers = []string{issuer}
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "max-age=300")
	h.Set("Access-Control-Allow-Origin", "*")
	w.Write(append(encode(m), '\n')) //nolint:errcheck // the agent has gone
	return true
}

// metadataURL is where the metadata of a request's resource is.
func (p *Protocol) metadataURL(r *http.Request) string {
	path, err := httpgate.NormalPath(r.URL.EscapedPath())
	if err != nil || path == "/" {
		path = ""
	}
	if to := p.find(hostOf(r.Host), path); to != nil {
		path = to.prefix
	}
	return base(r) + metadataPath + path
}

// base is the URL of the host that a request names.
func base(r *http.Request) string {
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	return scheme + strings.Map(hostRune, r.Host)
}

// hostRune drops what belongs into no host, as a field's value is made of it.
func hostRune(r rune) rune {
	if r > ' ' && r < 0x7f && !strings.ContainsRune(`"\<>`, r) {
		return r
	}
	return -1
}

// atHome reports whether a request's host, and the page it was made by if it
// was, are ones that lead here: those configured, or where the listener can only
// be reached from its own machine, the machine itself.
func (p *Protocol) atHome(r *http.Request) bool {
	host := hostOf(r.Host)
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && a.IP.IsLoopback() && !isLocal(host) && !p.configured(host) {
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	_, rest, ok := strings.Cut(origin, "://")
	return ok && len(r.Header["Origin"]) == 1 && (hostOf(rest) == host || p.configured(hostOf(rest)))
}

func (p *Protocol) configured(host string) bool {
	return slices.ContainsFunc(p.cfg.Resources(), func(r Resource) bool { return slices.Contains(r.Hosts, host) }) ||
		slices.ContainsFunc(p.cfg.Endpoints(), func(e Endpoint) bool { return slices.Contains(e.Hosts, host) })
}

func isLocal(host string) bool {
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// hostOf is a host without port, in lower case.
func hostOf(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
