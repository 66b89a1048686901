package httpgate

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// Request is a request in its normal form: what policy is asked about, and what
// the upstream gets.
type Request struct {
	*http.Request // Header holds what goes upstream; Body is the agent's

	Path     string   // escaped, without the route's prefix; begins with a slash
	Query    string   // as it came, checked; without the question mark
	Stripped []string // names of fields that were taken off because they claim an identity or another method, in lower case, sorted
	Upgrade  bool     // asks for a WebSocket (RFC 6455)
	Switch   string   // the protocol that the connection shall switch to, in lower case; "" is none
}

// errMalformed is wrapped by what keeps a request from having a normal form.
var errMalformed = errors.New("malformed request")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errMalformed, fmt.Sprintf(format, args...))
}

// normalise returns the normal form of r, which it takes over. Prefix is that of
// the request's route.
func normalise(r *http.Request, prefix string) (*Request, error) {
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace || !isToken(r.Method) {
		return nil, malformed("the method is not passed on")
	}
	path, query, err := splitTarget(r)
	if err != nil {
		return nil, err
	}
	path, ok := strings.CutPrefix(path, prefix)
	if !ok {
		return nil, malformed("the path is not that of its route")
	}
	if path == "" {
		path = "/"
	}
	n := &Request{Request: r, Path: path, Query: query}
	if err := n.fields(); err != nil {
		return nil, err
	}
	return n, nil
}

// splitTarget takes path and query from the request's target as it came (RFC
// 9112 section 3.2), and writes the path in one way.
func splitTarget(r *http.Request) (path, query string, err error) {
	target := r.RequestURI
	if !strings.HasPrefix(target, "/") { // absolute-form; net/http has taken the host from it
		if r.URL.Scheme != "http" && r.URL.Scheme != "https" || r.URL.User != nil {
			return "", "", malformed("the target is neither a path nor an http URL")
		}
		_, rest, _ := strings.Cut(target, "://")
		slash := strings.IndexAny(rest, "/?#")
		if slash < 0 || rest[slash] != '/' {
			return "", "", malformed("the target has no path")
		}
		target = rest[slash:]
	}
	path, query, _ = strings.Cut(target, "?")
	if path, err = NormalPath(path); err != nil {
		return "", "", err
	}
	return path, query, checkQuery(query)
}

// NormalPath writes a path in one way: percent-encoding in upper case, and none
// of what needs none (RFC 3986 section 6.2.2). What servers take for different
// paths is refused: dot segments, empty segments, encoded slashes and NULs,
// backslashes, and parameters behind dots.
func NormalPath(path string) (string, error) {
	if plainPath(path) {
		return path, nil
	}
	b := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '%':
			if i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]) {
				return "", malformed("a percent sign in the path is followed by no hexadecimal digits")
			}
			decoded := unhex(path[i+1])<<4 | unhex(path[i+2])
			switch {
			case isUnreserved(decoded):
				b = append(b, decoded)
			case decoded == '/' || decoded == '\\' || decoded < 0x20 || decoded == 0x7f:
				return "", malformed("an encoded slash, backslash or control character in the path")
			default:
				b = append(b, '%', upperHex[decoded>>4], upperHex[decoded&15])
			}
			i += 2
		case isUnreserved(c), strings.IndexByte("/:@!$&'()*+,;=", c) >= 0:
			b = append(b, c)
		default:
			return "", malformed("the path holds %q, which is written %%%02X", c, c)
		}
	}
	if path = string(b); path == "" || path[0] != '/' {
		return "", malformed("the path begins with no slash")
	}
	for i, segment := range strings.Split(path[1:], "/") {
		name, _, _ := strings.Cut(segment, ";")
		switch {
		case name == "." || name == "..":
			return "", malformed("a dot segment in the path")
		case segment == "" && i < strings.Count(path, "/")-1:
			return "", malformed("an empty segment in the path")
		}
	}
	return path, nil
}

// plainPath reports whether a path is in its normal form beyond doubt: most are.
func plainPath(path string) bool {
	last := byte(0)
	for i := range len(path) {
		c := path[i]
		switch {
		case c == '/' && last == '/', c == '.' && last == '/':
			return false
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '~', c == '/':
		default:
			return false
		}
		last = c
	}
	return path != "" && path[0] == '/'
}

// checkQuery refuses what doesn't belong into a query (RFC 3986 section 3.4).
// Others than "#", controls and what isn't ASCII pass: browsers send them.
func checkQuery(query string) error {
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return malformed("the query holds %q, which is written %%%02X", c, c)
		}
	}
	return nil
}

const upperHex = "0123456789ABCDEF"

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c >= 'a':
		return c - 'a' + 10
	}
	return c - 'A' + 10
}

func isUnreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// Fields that concern one connection only (RFC 9110 section 7.6.1), or that the
// gateway writes itself.
var hop = set("Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade", "Http2-Settings", "Content-Length", "Host", "Authorization", "Expect")

// claims are fields by which services are told who asks, from where, or for
// what else than the request says. Only the gateway may say so.
var claims = set("Forwarded", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip", "Fastly-Client-Ip",
	"X-Remote-User", "Remote-User", "X-Remote-Group", "X-User", "X-Username", "X-Webauth-User", "X-Authenticated-User", "X-Authenticated-Userid",
	"X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Original-Uri", "X-Original-Method", "X-Rewrite-Url",
	"X-Ssl-Client-Cert", "X-Client-Cert", "Ssl-Client-Cert", "Client-Cert", "Client-Cert-Chain", "X-Amzn-Oidc-Identity", "X-Amzn-Oidc-Data",
	"X-Goog-Iap-Jwt-Assertion", "X-Goog-Authenticated-User-Email", "X-Pomerium-Jwt-Assertion")

// claimPrefixes are what such fields begin with.
var claimPrefixes = []string{"X-Forwarded-", "X-Auth-Request-", "X-Ssl-Client-", "X-Envoy-", "X-Remote-", "Impersonate-", identityPrefix}

// identityPrefix begins the names of the fields that the gateway adds.
const identityPrefix = "Exhibit-"

// IdentityField tells an upstream for whom the gateway asks: a JWT that it can
// check with the keys at KeysPath.
const IdentityField = "Exhibit-Identity"

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

// isClaim reports whether a field is one that only the gateway may send. Many
// servers see no difference between "_" and "-" in names.
func isClaim(name string) bool {
	if strings.IndexByte(name, '_') >= 0 {
		name = textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
		if hop[name] {
			return true
		}
	}
	return claims[name] || slices.ContainsFunc(claimPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// fields takes off what isn't passed on.
func (n *Request) fields() error {
	h := n.Header
	if n.ProtoMajor == 1 && len(h["Upgrade"]) == 1 && listed(h["Connection"], "upgrade") {
		n.Switch = strings.ToLower(h.Get("Upgrade"))
	}
	n.Upgrade = n.Switch == "websocket"
	if n.Upgrade && (n.Method != http.MethodGet || n.ContentLength != 0) {
		return malformed("a WebSocket begins with a GET without content")
	}
	trailers := listed(h["Te"], "trailers")
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)); !hop[name] {
				if name == "Cookie" || strings.HasPrefix(name, "Content-") || name == "Accept" {
					return malformed("Connection names a field that concerns more than the connection")
				}
				delete(h, name)
			}
		}
	}
	for name, values := range h {
		switch {
		case hop[name]:
			delete(h, name)
		case isClaim(name):
			delete(h, name)
			n.Stripped = append(n.Stripped, strings.ToLower(name))
		case len(values) > 1 && (name == "Content-Type" || name == "Content-Encoding" || name == "Range"):
			return malformed("%s stands there twice", name)
		}
	}
	slices.Sort(n.Stripped)
	if trailers {
		h["Te"] = []string{"trailers"}
	}
	return nil
}

// listed reports whether a list of tokens holds one.
func listed(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// Target is the path and query that go upstream, below base.
func (n *Request) target(base string) string {
	t := base + n.Path
	if n.Query != "" {
		t += "?" + n.Query
	}
	return t
}

// GRPC reports whether the request is a gRPC call.
func (n *Request) GRPC() bool { return IsGRPC(n.Request) }

// IsGRPC reports whether a request is a gRPC call.
func IsGRPC(r *http.Request) bool {
	t := r.Header.Get("Content-Type")
	return t == "application/grpc" || strings.HasPrefix(t, "application/grpc+") || strings.HasPrefix(t, "application/grpc;")
}
