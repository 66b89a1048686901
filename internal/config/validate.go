package config

import (
	"cmp"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"filippo.io/age"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// complete fills in the defaults that depend on other values, and makes paths
// absolute.
func (c *Config) complete(d *decoder, dir string) {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	paths := []*string{&c.Data, &c.Policies, &c.Admin.Socket, &c.Admin.HTTPS.Cert, &c.Admin.HTTPS.Key, &c.Admin.HTTPS.ClientCA}
	for i := range c.Log.Timestamps.Authorities {
		paths = append(paths, &c.Log.Timestamps.Authorities[i].CA)
	}
	for i := range c.Listeners {
		l := &c.Listeners[i]
		paths = append(paths, &l.TLS.Cert, &l.TLS.Key)
	}
	for i := range c.Resources {
		r := &c.Resources[i]
		paths = append(paths, &r.Upstream.Password.File, &r.Upstream.TLS.CA, &r.Upstream.TLS.Cert, &r.Upstream.TLS.Key,
			&r.Upstream.Header.Value.File, &r.Reconcile.Log, &r.Upstream.OAuth.ClientSecret.File, &r.Upstream.Kubeconfig, &r.HTTP.OpenAPI, &r.MCP.Dir)
		completeKubernetes(d, fmt.Sprintf("resources[%d].kubernetes", i), r)
		c.completeMCP(d, fmt.Sprintf("resources[%d].mcp", i), r, dir)
		if r.Reconcile.Log != "" && !d.has(fmt.Sprintf("resources[%d].reconcile.every", i)) {
			r.Reconcile.Every = 30 * time.Second
		}
		if !d.has(fmt.Sprintf("resources[%d].durability", i)) {
			r.Durability = DurabilityPower
		}
		if !d.has(fmt.Sprintf("resources[%d].upstream.tls.mode", i)) {
			r.Upstream.TLS.Mode = TLSVerifyFull
			if Local(r.Upstream.Address) {
				r.Upstream.TLS.Mode = TLSDisable
			}
		}
	}
	for i := range c.Alerts.Webhooks {
		paths = append(paths, &c.Alerts.Webhooks[i].Header.Value.File)
	}
	for i := range c.Sinks {
		paths = append(paths, &c.Sinks[i].File, &c.Sinks[i].CA, &c.Sinks[i].Header.Value.File)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	if c.Rights.Separation == "" {
		c.Rights.Separation = evidence.SeparationReported
		if len(c.People) > 1 {
			c.Rights.Separation = evidence.SeparationRequired
		}
	}
	c.Limits.SessionsPerAgent = min(c.Limits.SessionsPerAgent, c.Limits.Sessions)
	if c.Admin.Socket == "" && c.Data != "" {
		c.Admin.Socket = filepath.Join(c.Data, "admin.sock")
	}
}

// completeMCP fills in the defaults of a resource of the protocol mcp.
func (c *Config) completeMCP(d *decoder, at string, r *Resource, dir string) {
	if r.Protocol != "mcp" {
		return
	}
	m := &r.MCP
	if !d.has(at + ".endpoint") {
		m.Endpoint = "/mcp"
	}
	if !d.has(at + ".accept") {
		m.Accept = AcceptListed
	}
	if !d.has(at + ".message_bytes") {
		m.MessageBytes = 8 << 20
	}
	for name, v := range m.Env {
		if v.File != "" && !filepath.IsAbs(v.File) {
			v.File = filepath.Join(dir, v.File)
			m.Env[name] = v
		}
	}
	if len(m.Command) > 0 && strings.Contains(m.Command[0], "/") && !filepath.IsAbs(m.Command[0]) {
		m.Command[0] = filepath.Join(dir, m.Command[0])
	}
}

// validate reports everything that would keep the gateway from running as the
// file says, as far as the file alone tells.
func (c *Config) validate(d *decoder) {
	if !evidence.ValidGateway(c.Gateway) {
		d.fail("gateway", "gateway must name this gateway: 1 to 32 of a-z, 0-9 and -, beginning with a letter", "for example gateway: gw1; it stands in every record, so choose it once")
	}
	d.required("organisation", c.Organisation, "organisation: Example Ltd, as it shall appear on evidence packs")
	d.required("data", c.Data, "data: /var/lib/exhibit, a folder on a local disk")
	d.required("policies", c.Policies, "policies: policies, a folder of .cedar files")
	if !validOrigin(c.Log.Origin) {
		d.fail("log.origin", "log.origin must name this gateway's log: a URL without scheme, spaces or +", "for example origin: evidence.example.com/gw1; it is signed into every checkpoint, so choose it once")
	}
	c.validateWitnesses(d)
	c.validateTimestamps(d)
	c.validatePeople(d)
	c.validateRights(d)
	c.validateReconcile(d)
	for i, a := range c.Auditors {
		if r, err := age.ParseRecipients(strings.NewReader(a)); err != nil || len(r) != 1 {
			d.fail(fmt.Sprintf("auditors[%d]", i), "not an age recipient", "the auditor makes one with age-keygen and gives you the line that begins with age1")
		}
	}
	c.validateAdmin(d)
	c.validateListeners(d)
	c.validateResources(d)
	c.validateEndpoints(d)
	c.validateIssuer(d)
	c.validateNumbers(d)
	c.validateAlerts(d)
	c.validateSinks(d)
}

// required reports a value that is missing or holds what can't be shown.
func (d *decoder) required(path, v, example string) {
	switch {
	case v == "":
		d.fail(path, path+" is missing", example)
	case strings.ContainsFunc(v, unicode.IsControl):
		d.fail(path, path+" holds a control character", "")
	}
}

// origin is what tlog-checkpoint allows and people can read aloud.
var origin = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[A-Za-z0-9._~-]+)*$`)

func validOrigin(s string) bool { return len(s) <= 200 && origin.MatchString(s) }

// witnessKey is the form of a verifier key; whether the parts belong together is
// found out when it is used.
var witnessKey = regexp.MustCompile(`^[^+\s]+\+[0-9a-f]{8}\+[A-Za-z0-9+/]+=*$`)

func (c *Config) validateWitnesses(d *decoder) {
	urls, names := map[string]bool{}, map[string]bool{}
	for i, w := range c.Log.Witnesses {
		at := fmt.Sprintf("log.witnesses[%d]", i)
		u, err := url.Parse(w.URL)
		switch {
		case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
			u.Scheme != "https" && !(u.Scheme == "http" && Local(hostPort(u))):
			d.fail(at+".url", "url must be an https URL without user or query", "the witness's operator gives it to you; /add-checkpoint is appended")
		case urls[strings.TrimSuffix(w.URL, "/")]:
			d.fail(at+".url", "two witnesses have this URL", "one party counts once")
		default:
			urls[strings.TrimSuffix(w.URL, "/")] = true
		}
		name, _, _ := strings.Cut(w.Key, "+")
		switch {
		case !witnessKey.MatchString(w.Key):
			d.fail(at+".key", "key must be the witness's verifier key: name+0a1b2c3d+base64", "the witness's operator gives it to you; auditors get it from there too, not from you")
		case names[name]:
			d.fail(at+".key", fmt.Sprintf("two witnesses are named %s", name), "one party counts once")
		}
		names[name] = true
	}
	if n := len(c.Log.Witnesses); d.has("log.quorum") && (c.Log.Quorum < 1 || c.Log.Quorum > n) {
		d.fail("log.quorum", fmt.Sprintf("quorum must lie between 1 and the number of witnesses, %d", n), "leave it out to need all of them")
	}
}

// maxTimeout keeps a request for a stamp from outlasting what waits for it.
const maxTimeout = time.Minute

func (c *Config) validateTimestamps(d *decoder) {
	t, urls := c.Log.Timestamps, map[string]bool{}
	for i, a := range t.Authorities {
		at := fmt.Sprintf("log.timestamps.authorities[%d]", i)
		u, err := url.Parse(a.URL)
		switch {
		case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http":
			d.fail(at+".url", "url must be an http or https URL without user or query", "the authority's operator gives it to you; what it answers is signed, so http will do")
		case urls[a.URL]:
			d.fail(at+".url", "two authorities have this URL", "")
		}
		urls[a.URL] = true
		if a.CA == "" {
			d.fail(at+".ca", "ca is missing: the PEM file of the authority's root certificates", "its operator publishes them; auditors get them from there too, not from you")
		}
		if _, err := ParseOID(a.Policy); a.Policy != "" && err != nil {
			d.fail(at+".policy", "policy must be an object identifier", "for example 1.3.6.1.4.1.13762.3; leave it out to take any")
		}
	}
	if t.Interval < time.Minute || t.Interval > 24*time.Hour {
		d.fail("log.timestamps.interval", fmt.Sprintf("log.timestamps.interval must lie between %v and %v", time.Minute, 24*time.Hour), "")
	}
	if t.Timeout < time.Second || t.Timeout > maxTimeout {
		d.fail("log.timestamps.timeout", fmt.Sprintf("log.timestamps.timeout must lie between %v and %v", time.Second, maxTimeout), "")
	}
}

// ParseOID parses an object identifier in dotted decimals.
func ParseOID(s string) (asn1.ObjectIdentifier, error) {
	oid, err := x509.ParseOID(s)
	if err != nil {
		return nil, err
	}
	var list asn1.ObjectIdentifier
	for _, arc := range strings.Split(oid.String(), ".") {
		n, err := strconv.ParseInt(arc, 10, 32)
		if err != nil {
			return nil, err
		}
		list = append(list, int(n))
	}
	return list, nil
}

func (c *Config) validatePeople(d *decoder) {
	if len(c.People) == 0 {
		d.fail("people", "people is empty: nobody could register an agent", "name at least one person with id and uids")
	}
	ids, emails, uids := map[string]bool{}, map[string]bool{}, map[uint32]bool{}
	for i, p := range c.People {
		at := fmt.Sprintf("people[%d]", i)
		switch {
		case p.ID == "":
			d.fail(at+".id", "a person needs an id", "for example id: alice@example.com; it stands in records, so never give it to anyone else")
		case len(p.ID) > 256 || strings.ContainsFunc(p.ID, notPlain):
			d.fail(at+".id", "the id holds spaces or control characters, or is too long", "for example id: alice@example.com")
		case ids[p.ID]:
			d.fail(at+".id", fmt.Sprintf("two people have the id %s", p.ID), "")
		}
		ids[p.ID] = true
		if email := strings.ToLower(p.Email); email != "" {
			if !strings.Contains(email, "@") || strings.ContainsFunc(email, notPlain) {
				d.fail(at+".email", "not an e-mail address", "")
			} else if emails[email] {
				d.fail(at+".email", fmt.Sprintf("two people have the e-mail address %s", p.Email), "a certificate with it would identify nobody")
			}
			emails[email] = true
		}
		if strings.ContainsFunc(p.Name, unicode.IsControl) {
			d.fail(at+".name", "the name holds a control character", "")
		}
		for j, uid := range p.UIDs {
			if uids[uid] {
				d.fail(fmt.Sprintf("%s.uids[%d]", at, j), fmt.Sprintf("two people share uid %d", uid), "a shared account can't tell who acted: give each person their own")
			}
			uids[uid] = true
		}
		for j, group := range p.Groups {
			if !evidence.ValidName(group) || group == evidence.GroupResource || group == evidence.GroupPolicy {
				d.fail(fmt.Sprintf("%s.groups[%d]", at, j), "a group's name is 1 to 128 of A-Z, a-z, 0-9 and ._:@/+-, and neither resource nor policy", "for example groups: [dba]")
			}
		}
	}
}

// validateRights reports who couldn't approve anything.
func (c *Config) validateRights(d *decoder) {
	people, groups := []string{}, []string{}
	for _, p := range c.People {
		people, groups = append(people, p.ID), append(groups, p.Groups...)
	}
	slices.Sort(groups)
	groups = slices.Compact(groups)
	known := func(path string, list []string) {
		for i, g := range list {
			if !slices.Contains(groups, g) {
				d.fail(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("nobody is in the group %.80q", g), "people are put in groups under people, with groups: [...]"+among("; there are", groups))
			}
		}
	}
	for i, r := range c.Resources {
		at := fmt.Sprintf("resources[%d]", i)
		if r.Owner != "" && !slices.Contains(people, r.Owner) {
			d.fail(at+".owner", fmt.Sprintf("there is no person %.80q", r.Owner), "the owner is the id of one under people"+among(":", people))
		}
		known(at+".approvers", r.Approvers)
	}
	known("rights.policy_approvers", c.Rights.PolicyApprovers)
	switch c.Rights.Separation {
	case evidence.SeparationReported:
	case evidence.SeparationRequired:
		if len(c.People) == 1 {
			d.fail("rights.separation", "required needs a second person: with one nobody could approve anything", "add one under people, or write reported: what one person does alone is then shown as an exception")
		}
	default:
		d.fail("rights.separation", "separation is required or reported", "required: grants and policies need a second person's approval; reported: what one person does alone is shown as an exception")
	}
}

// validateReconcile reports what of a resource's upstream can't be held against
// the gateway's sessions.
func (c *Config) validateReconcile(d *decoder) {
	for i, r := range c.Resources {
		at := fmt.Sprintf("resources[%d]", i)
		cluster := r.Protocol == "kubernetes"
		if (r.Reconcile != Reconcile{} || len(r.Direct) > 0) && r.Protocol != "postgres" && !cluster {
			d.fail(at+".reconcile", "only resources of the protocols postgres and kubernetes are reconciled", "leave out reconcile and direct")
			continue
		}
		if rec := r.Reconcile; rec != (Reconcile{}) {
			if rec.Log == "" {
				where := "log: /var/log/postgresql/*.csv, readable by the gateway"
				if cluster {
					where = "log: /var/log/kubernetes/audit*.log, readable by the gateway"
				}
				d.fail(at+".reconcile.log", "it isn't said where the server's log is", where)
			} else if _, err := filepath.Match(rec.Log, ""); err != nil {
				d.fail(at+".reconcile.log", fmt.Sprintf("not a pattern of files: %v", err), "")
			}
			switch {
			case cluster && rec.Format != LogAudit && rec.Log != "":
				d.fail(at+".reconcile.format", "the format of clusters is audit", "or leave it out")
			case !cluster && rec.Format != LogCSV && rec.Format != LogJSON:
				d.fail(at+".reconcile.format", "format is csvlog or jsonlog", "as log_destination of the server says")
			}
			if rec.Every != 0 && (rec.Every < 5*time.Second || rec.Every > 24*time.Hour) {
				d.fail(at+".reconcile.every", "every must lie between 5s and 24h", "0 is only when somebody asks; more than 50s is too long for an alert within a minute")
			}
		}
		for j, w := range r.Direct {
			at := fmt.Sprintf("%s.direct[%d]", at, j)
			if w.User == "" && w.From == "" && w.Group == "" {
				d.fail(at, "it says neither which user nor from where", "everybody would be allowed")
			}
			if w.Group != "" && !cluster {
				d.fail(at+".group", "groups are a cluster's", "name the user")
			}
			if w.From == "local" && cluster {
				d.fail(at+".from", "an API server has no unix socket", "an address, or a prefix like 10.0.0.0/8")
			}
			d.required(at+".reason", w.Reason, "reason: nightly backup by the platform team")
			if w.From != "" && w.From != "local" {
				_, err1 := netip.ParseAddr(w.From)
				if _, err2 := netip.ParsePrefix(w.From); err1 != nil && err2 != nil {
					d.fail(at+".from", fmt.Sprintf("%.80q is no address", w.From), "an address, a prefix like 10.0.0.0/8, or local for a unix socket")
				}
			}
		}
	}
}

// among lists what there is, for a hint.
func among(before string, names []string) string {
	const most = 12
	switch {
	case len(names) == 0:
		return ""
	case len(names) > most:
		names = append(slices.Clone(names[:most]), "...")
	}
	return before + " " + strings.Join(names, ", ")
}

func notPlain(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }

// maxSocket is the longest path of a unix socket (sun_path of unix(7), less
// its final NUL).
const maxSocket = 107

func (c *Config) validateAdmin(d *decoder) {
	if len(c.Admin.Socket) > maxSocket {
		d.fail("admin.socket", fmt.Sprintf("the path of the admin socket has %d characters, the system allows %d", len(c.Admin.Socket), maxSocket), "set admin.socket to a shorter path, like /run/exhibit/admin.sock")
	}
	if h := c.Admin.HTTPS; h != (HTTPS{}) {
		d.address("admin.https.address", h.Address)
		const hint = "the API over the network knows people by their certificates: set cert, key and client_ca"
		for _, f := range []struct{ key, v string }{{"cert", h.Cert}, {"key", h.Key}, {"client_ca", h.ClientCA}} {
			if f.v == "" {
				d.fail("admin.https."+f.key, "admin.https."+f.key+" is missing", hint)
			}
		}
	}
	if a := c.Metrics.Address; a != "" {
		if d.address("metrics.address", a) && !Local(a) {
			d.fail("metrics.address", "metrics are served in plain to anyone who asks, so only on a loopback address", "use 127.0.0.1:9464 and let the collector's agent on this machine read it")
		}
	}
}

func (c *Config) validateListeners(d *decoder) {
	if len(c.Listeners) == 0 {
		d.fail("listeners", "listeners is empty: no agent could connect", "for example - {name: postgres, protocol: postgres, address: 127.0.0.1:6433}")
	}
	names, addresses := map[string]bool{}, map[string]string{c.Metrics.Address: "metrics.address"}
	if a := c.Admin.HTTPS.Address; a != "" {
		addresses[a] = "admin.https.address"
	}
	for i, l := range c.Listeners {
		at := fmt.Sprintf("listeners[%d]", i)
		d.name(at+".name", "listener", l.Name, names)
		d.protocol(at+".protocol", l.Protocol)
		if d.address(at+".address", l.Address) {
			if other := addresses[l.Address]; other != "" {
				d.fail(at+".address", "the address is taken by "+other, "give each listener its own port")
			}
			addresses[l.Address] = "listener " + l.Name
		}
		plain := l.TLS == (ListenTLS{})
		if plain && l.Address != "" && !Local(l.Address) {
			d.fail(at+".tls", "without TLS a listener must stay on a loopback address or a unix socket", "set tls: {cert: FILE, key: FILE}: agents send their tokens here")
		}
		if !plain && (l.TLS.Cert == "" || l.TLS.Key == "") {
			d.fail(at+".tls", "tls needs both cert and key", "")
		}
	}
}

func (c *Config) validateResources(d *decoder) {
	if len(c.Resources) == 0 {
		d.fail("resources", "resources is empty: there is nothing to reach", "name at least one resource with its upstream")
	}
	names := map[string]bool{}
	for i, r := range c.Resources {
		at := fmt.Sprintf("resources[%d]", i)
		d.name(at+".name", "resource", r.Name, names)
		d.protocol(at+".protocol", r.Protocol)
		if r.Durability != DurabilityPower && r.Durability != DurabilityProcess {
			d.fail(at+".durability", "durability is power or process", "power: the record of a read survives power loss before the read is forwarded; process: it survives a crash of the gateway, and the pack says so")
		}
		u := r.Upstream
		if (len(r.MCP.Command) == 0 || r.Protocol != "mcp") && u.Kubeconfig == "" {
			d.address(at+".upstream.address", u.Address)
		}
		if r.Protocol == "postgres" {
			d.required(at+".upstream.user", u.User, "the account that the gateway uses there; agents never see it")
			d.required(at+".upstream.database", u.Database, "the database that the gateway connects to")
		}
		c.validateHTTP(d, at, r)
		c.validateMCP(d, at, i)
		c.validateKubernetes(d, at, i)
		if u.Password.File != "" && u.Password.Env != "" {
			d.fail(at+".upstream.password", "password has both file and env", "keep one")
		}
		if !slices.Contains([]string{"", "3.0", "3.2"}, u.MaxProtocolVersion) {
			d.fail(at+".upstream.max_protocol_version", "max_protocol_version is '3.0' or '3.2'", "'3.2' is for PostgreSQL 18 and newer; older servers and some poolers may not know it")
		}
		c.validateUpstreamTLS(d, at+".upstream.tls", u)
		for key, v := range r.Labels {
			if !evidence.ValidName(key) || !evidence.ValidName(v) {
				d.fail(at+".labels."+key, "a label's key and value are 1 to 128 of A-Z, a-z, 0-9 and ._:@/+-", "")
			}
		}
	}
}

// overHTTP are the protocols above HTTP.
var overHTTP = []string{"http", "mcp", "kubernetes"}

func (c *Config) validateHTTP(d *decoder, at string, r Resource) {
	u, h := r.Upstream, r.HTTP
	if r.Protocol != "http" && d.has(at+".http") {
		d.fail(at+".http", "http is for resources of the protocol http", "")
	}
	if !slices.Contains(overHTTP, r.Protocol) {
		for key, set := range map[string]bool{"header": d.has(at + ".upstream.header"), "oauth": d.has(at + ".upstream.oauth")} {
			if set {
				d.fail(at+".upstream."+key, key+" is for protocols above HTTP", "")
			}
		}
		return
	}
	if u.Database != "" {
		d.fail(at+".upstream.database", "a resource of the protocol "+r.Protocol+" has no database", "")
	}
	credentials := 0
	for _, set := range []bool{u.User != "" || !u.Password.IsZero(), u.Header != UpstreamHeader{}, u.OAuth.TokenURL != ""} {
		if set {
			credentials++
		}
	}
	if credentials > 1 {
		d.fail(at+".upstream", "the account is proven by user and password, by header or by oauth, and here by several", "keep one; a client certificate (tls.cert) may come on top")
	}
	if d.has(at+".upstream.header") && (!fieldName.MatchString(u.Header.Name) || u.Header.Value.IsZero()) {
		d.fail(at+".upstream.header", "header needs a name and where its value is", "for example {name: X-Api-Key, value: {file: /etc/exhibit/billing.key}}")
	}
	if d.has(at + ".upstream.oauth") {
		if t, err := url.Parse(u.OAuth.TokenURL); err != nil || t.Host == "" || t.Scheme != "https" && !(t.Scheme == "http" && Local(hostPort(t))) {
			d.fail(at+".upstream.oauth.token_url", "token_url must be an https URL", "the client secret is sent there")
		}
		d.required(at+".upstream.oauth.client_id", u.OAuth.ClientID, "the gateway's own client id there")
	}
	d.hosts(at+".http.hosts", h.Hosts)
	d.prefix(at+".http.prefix", h.Prefix)
	d.prefix(at+".http.base", h.Base)
	if h.OpenAPI != "" && len(h.Routes) > 0 {
		d.fail(at+".http.routes", "routes and openapi both say which operations there are", "keep one")
	}
	d.pointers(at+".http.match", h.Match)
	if r.Protocol != "http" {
		return
	}
	for j, other := range c.Resources {
		if other.Name == r.Name {
			break // each pair is reported once
		}
		if other.Protocol == r.Protocol && other.HTTP.Prefix == h.Prefix && (len(h.Hosts) == 0 && len(other.HTTP.Hosts) == 0 || shareOne(h.Hosts, other.HTTP.Hosts)) {
			d.fail(at+".http", fmt.Sprintf("the same requests are meant for resources[%d]", j), "give each resource hosts or a prefix of its own")
		}
	}
}

func (d *decoder) hosts(path string, hosts []string) {
	for i, host := range hosts {
		if host == "" || host != strings.ToLower(host) || strings.ContainsAny(host, ":/ ") {
			d.fail(fmt.Sprintf("%s[%d]", path, i), "a host is a name in lower case, without port", "for example billing.example.com")
		}
	}
}

func (d *decoder) prefix(path, v string) {
	if v != "" && (!strings.HasPrefix(v, "/") || strings.HasSuffix(v, "/") || !pathPrefix.MatchString(v)) {
		d.fail(path, path[strings.LastIndexByte(path, '.')+1:]+" begins with a slash and ends without one", "for example /billing")
	}
}

func (d *decoder) pointers(path string, list []string) {
	for i, p := range list {
		if !strings.HasPrefix(p, "/") {
			d.fail(fmt.Sprintf("%s[%d]", path, i), "not a JSON pointer (RFC 6901)", "for example /amount, or /customer/id")
		}
	}
}

func shareOne(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// hostPort is where a URL leads, as an address.
func hostPort(u *url.URL) string { return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80")) }

var (
	fieldName  = regexp.MustCompile("^[A-Za-z0-9-]{1,64}$")
	pathPrefix = regexp.MustCompile(`^(/[A-Za-z0-9_.~-]*[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)+$`)
)

func (c *Config) validateUpstreamTLS(d *decoder, at string, u Upstream) {
	switch u.TLS.Mode {
	case TLSVerifyCA, TLSVerifyFull:
		if strings.HasPrefix(u.Address, "/") {
			d.fail(at+".mode", "a unix socket has no TLS", "remove tls")
		}
	case TLSDisable:
		if !Local(u.Address) && u.Address != "" {
			d.fail(at+".mode", "without TLS an upstream must be on a loopback address or a unix socket", "use mode: verify-full, with ca: FILE when the server's authority is your own")
		}
		if u.TLS != (UpstreamTLS{Mode: TLSDisable}) {
			d.fail(at+".mode", "mode: disable uses nothing else of tls", "use mode: verify-full or remove the rest")
		}
	case "require", "prefer", "allow":
		d.fail(at+".mode", u.TLS.Mode+" encrypts without knowing to whom", "use verify-full, or verify-ca when the certificate's name can't match")
	default:
		d.fail(at+".mode", "mode is disable, verify-ca or verify-full", "")
	}
	if (u.TLS.Cert == "") != (u.TLS.Key == "") {
		d.fail(at, "a client certificate needs both cert and key", "")
	}
	if !slices.Contains([]string{"", NegotiationPostgres, NegotiationDirect}, u.TLS.Negotiation) {
		d.fail(at+".negotiation", "negotiation is postgres or direct", "direct is for PostgreSQL 17 and newer")
	}
	switch b := u.TLS.ChannelBinding; {
	case !slices.Contains([]string{"", BindingPrefer, BindingRequire}, b):
		d.fail(at+".channel_binding", "channel_binding is prefer or require", "")
	case b == BindingRequire && u.Password.IsZero():
		d.fail(at+".channel_binding", "channel_binding: require needs a password", "it binds the login by password (SCRAM-SHA-256-PLUS) to the server's certificate")
	}
}

func (c *Config) validateNumbers(d *decoder) {
	l, s := c.Limits, c.Sealing
	for _, n := range []struct {
		path        string
		v, min, max int64
	}{
		{"limits.sessions", int64(l.Sessions), 1, 1_000_000},
		{"limits.sessions_per_agent", int64(l.SessionsPerAgent), 1, 1_000_000},
	} {
		if n.v < n.min || n.v > n.max {
			d.fail(n.path, fmt.Sprintf("%s must lie between %d and %d", n.path, n.min, n.max), "")
		}
	}
	for _, n := range []struct {
		path        string
		v, min, max time.Duration
	}{
		{"rights.request_ttl", c.Rights.RequestTTL, time.Minute, 90 * 24 * time.Hour},
		{"rights.leaver_limit", c.Rights.LeaverLimit, time.Minute, 90 * 24 * time.Hour},
		{"limits.token_ttl", l.TokenTTL, time.Minute, 24 * time.Hour},
		{"limits.session_idle", l.SessionIdle, time.Second, 24 * time.Hour},
		{"limits.handshake", l.Handshake, time.Second, 5 * time.Minute},
		{"limits.shutdown_grace", l.ShutdownGrace, 0, 10 * time.Minute},
		{"sealing.interval", s.Interval, 100 * time.Millisecond, 10 * time.Minute},
		{"sealing.max_unsealed_age", s.MaxUnsealedAge, time.Minute, 7 * 24 * time.Hour},
		{"sealing.heartbeat", s.Heartbeat, time.Second, time.Hour},
	} {
		if n.v < n.min || n.v > n.max {
			d.fail(n.path, fmt.Sprintf("%s must lie between %v and %v", n.path, n.min, n.max), "")
		}
	}
	for _, n := range []struct {
		path        string
		v, min, max Size
	}{
		{"limits.message_bytes", l.MessageBytes, 64 << 10, 1 << 30},
		{"sealing.block_bytes", s.BlockBytes, 64 << 10, 16 << 20},
		{"sealing.max_unsealed_bytes", s.MaxUnsealedBytes, 16 << 20, 1 << 40},
	} {
		if n.v < n.min || n.v > n.max {
			d.fail(n.path, fmt.Sprintf("%s must lie between %v and %v", n.path, n.min, n.max), "")
		}
	}
	if keep := c.Log.Retention; d.has("log.retention") && (keep < minRetention || keep > maxRetention) {
		d.fail("log.retention", fmt.Sprintf("log.retention must lie between %d and %d days, in hours", minRetention/day, maxRetention/day),
			"an auditor looks at a year and needs months for it: 10950h are 15 months; leave it out to keep the log for ever")
	}
	if s.Interval >= s.MaxUnsealedAge {
		d.fail("sealing.interval", "the interval must be shorter than max_unsealed_age", "or sessions would be refused before the first block is cut")
	}
}

// The bounds of log.retention. Below the first an audit of a quarter could find
// its beginning gone.
const (
	day          = 24 * time.Hour
	minRetention = 90 * day
	maxRetention = 36500 * day
)

func (d *decoder) name(path, what, v string, seen map[string]bool) {
	switch {
	case !evidence.ValidName(v):
		d.fail(path, fmt.Sprintf("a %s needs a name: 1 to 128 of A-Z, a-z, 0-9 and ._:@/+-", what), "")
	case seen[v]:
		d.fail(path, fmt.Sprintf("two have the name %s", v), "names stand in records and grants: give each its own")
	}
	seen[v] = true
}

// protocols are those that a listener or a resource may name.
var protocols = []string{"postgres", "http", "mcp", "kubernetes"}

func (d *decoder) protocol(path, v string) {
	for _, p := range protocols {
		if v == p {
			return
		}
	}
	d.fail(path, "protocol must be "+strings.Join(protocols[:len(protocols)-1], ", ")+" or "+protocols[len(protocols)-1], "")
}

// address reports whether v is host:port or the absolute path of a unix
// socket, and fails otherwise. It doesn't echo v, where people paste URLs with
// passwords.
func (d *decoder) address(path, v string) bool {
	if strings.HasPrefix(v, "/") {
		if len(v) > maxSocket {
			d.fail(path, fmt.Sprintf("the path of a unix socket has at most %d characters", maxSocket), "")
			return false
		}
		return true
	}
	host, port, err := net.SplitHostPort(v)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || n < 1 || n > 65535 || strings.ContainsAny(host, "/@ ") {
		d.fail(path, path[strings.LastIndexByte(path, '.')+1:]+" must be host:port or the path of a unix socket", "for example 127.0.0.1:5432, db.example.com:5432, [::1]:5432 or /run/postgresql/.s.PGSQL.5432")
		return false
	}
	return true
}

// Local reports whether an address stays on this machine: the path of a unix
// socket, a loopback IP, or localhost.
func Local(address string) bool {
	if strings.HasPrefix(address, "/") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// CheckPermissions returns what is wrong with the permissions of a file that
// holds a secret: it must be a regular file that only its owner and group can
// read.
func CheckPermissions(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if m := info.Mode().Perm(); m&0o027 != 0 {
		return fmt.Errorf("%s has mode %04o: others can reach it", path, m)
	}
	return nil
}
