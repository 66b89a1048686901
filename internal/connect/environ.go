package connect

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// End is an open local end.
type End struct {
	Resource string
	Protocol string
	Agent    string
	Addr     net.Addr
}

// Host and Port are where a PostgreSQL client finds the end: for a unix socket
// the folder that holds it, and what its name ends in.
func (e End) Host() string { host, _ := e.hostPort(); return host }

// Port is the other half of Host.
func (e End) Port() string { _, port := e.hostPort(); return port }

func (e End) hostPort() (host, port string) {
	if e.Addr.Network() == "unix" {
		folder, name := filepath.Split(e.Addr.String())
		return filepath.Clean(folder), strings.TrimPrefix(name, socketPrefix)
	}
	host, port, _ = net.SplitHostPort(e.Addr.String()) // a net.TCPAddr always splits
	return host, port
}

// URL is where clients find the end.
func (e End) URL() string {
	unix := e.Addr.Network() == "unix"
	switch {
	case e.Protocol == HTTP && unix:
		return "unix://" + e.Addr.String()
	case e.Protocol == HTTP:
		return "http://" + e.Addr.String()
	case unix:
		// Not every parser of URLs takes a user before an empty host, and libpq
		// takes + for itself.
		q := url.Values{"host": {e.Host()}, "port": {e.Port()}, "user": {e.Agent}, "sslmode": {"disable"}}
		return "postgres:///" + url.PathEscape(e.Resource) + "?" + strings.ReplaceAll(q.Encode(), "+", "%20")
	}
	u := url.URL{Scheme: "postgres", User: url.User(e.Agent), Host: e.Addr.String(), Path: "/" + e.Resource, RawQuery: "sslmode=disable"}
	return u.String()
}

// Example is a command that uses the end, to copy.
func (e End) Example() string {
	switch {
	case e.Protocol == HTTP && e.Addr.Network() == "unix":
		return "curl --unix-socket " + quote(e.Addr.String()) + " http://localhost/"
	case e.Protocol == HTTP:
		return "curl " + e.URL() + "/"
	}
	return "psql -h " + quote(e.Host()) + " -p " + e.Port() + " " + quote(e.Resource)
}

// quote makes s one word of a shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-:@%+,", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Variables that would send a PostgreSQL client elsewhere, or give it another
// credential than none. Those that only say how it works are left.
var misleading = []string{
	"PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE",
	"PGSYSCONFDIR", "PGREQUIREAUTH", "PGREQUIREPEER", "PGREQUIRESSL", "PGCHANNELBINDING", "PGKRBSRVNAME", "PGGSSLIB", "PGGSSENCMODE",
	"PGGSSDELEGATION", "PGSSLMODE", "PGSSLNEGOTIATION", "PGSSLCOMPRESSION", "PGSSLCERT", "PGSSLCERTMODE", "PGSSLKEY", "PGSSLROOTCERT",
	"PGSSLCRL", "PGSSLCRLDIR", "PGSSLSNI", "PGSSLMINPROTOCOLVERSION", "PGSSLMAXPROTOCOLVERSION", "PGTARGETSESSIONATTRS",
	"PGLOADBALANCEHOSTS", "PGOAUTHCLIENTSECRET", "DATABASE_URL",
}

// Environ returns the environment of a program that is to use the ends: base,
// less what would lead it elsewhere and less what tells where the key is, a file
// that it has no business with.
func Environ(base []string, ends []End, key string) ([]string, error) {
	path, err := filepath.Abs(key)
	if err != nil {
		return nil, fmt.Errorf("finding the key: %w", err)
	}
	set, err := variables(ends)
	if err != nil {
		return nil, err
	}
	uses := func(protocol string) bool {
		return slices.ContainsFunc(ends, func(e End) bool { return e.Protocol == protocol })
	}
	drop := func(variable string) bool {
		name, value, _ := strings.Cut(variable, "=")
		_, replaced := set[name]
		return replaced || strings.HasPrefix(name, "EXHIBIT_") ||
			uses(Postgres) && slices.Contains(misleading, name) ||
			value == key || strings.Contains(value, path) ||
			name == "CREDENTIALS_DIRECTORY" && filepath.Clean(value) == filepath.Dir(path) // systemd's
	}
	env := slices.DeleteFunc(slices.Clone(base), drop)
	if uses(HTTP) {
		env = withoutProxy(env)
	}
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		env = append(env, name+"="+set[name])
	}
	return env, nil
}

// withoutProxy sees to it that requests to a local end don't go by a proxy.
func withoutProxy(env []string) []string {
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		prefix := name + "="
		i := slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, prefix) })
		if i < 0 {
			env = append(env, prefix+"127.0.0.1,::1")
			continue
		}
		env[i] = strings.TrimSuffix(env[i], ",") + ",127.0.0.1,::1"
	}
	return env
}

// variables are those by which programs find the ends. The ones that name no
// resource are of the first for PostgreSQL.
func variables(ends []End) (map[string]string, error) {
	set, of := map[string]string{}, map[string]string{}
	put := func(e End, suffix, value string) error {
		name := variable(e.Resource) + suffix
		if other, taken := of[name]; taken {
			return failure("rename one of the resources", "%s and %s would both set %s", other, e.Resource, name)
		}
		set[name], of[name] = value, e.Resource
		return nil
	}
	first := true
	for _, e := range ends {
		suffix := "_URL"
		if e.Protocol == Postgres {
			suffix = "_DATABASE_URL"
			if first {
				set["PGHOST"], set["PGPORT"], set["PGUSER"], set["PGDATABASE"] = e.Host(), e.Port(), e.Agent, e.Resource
				set["PGSSLMODE"], set["DATABASE_URL"] = "disable", e.URL()
				first = false
			}
		}
		if err := put(e, suffix, e.URL()); err != nil {
			return nil, err
		}
	}
	return set, nil
}

// variable is the name of a resource as variables begin with it.
func variable(resource string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, resource)
}
