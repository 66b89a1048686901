package config

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

var update = flag.Bool("update", false, "rewrite golden files")

// A file with every key set decodes into every field.
func TestFull(t *testing.T) {
	c, err := Load("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Gateway:      "gw-eu1",
		Organisation: "Example Ltd: EU",
		Data:         dir + "/state",
		Log: Log{
			Origin: "evidence.example.com/gw-eu1", Quorum: 1,
			Witnesses: []Witness{
				{URL: "https://witness.example.org/prefix", Key: "witness.example.org+d4f1ee8e+BG1FNpEf7fnXh7+qRhMlpcs0BeV3PbLRFNZQjwEzpNQ4"},
				{URL: "http://127.0.0.1:7380", Key: "local.example+5e6f7a8b+BGz4"},
			},
			Timestamps: Timestamps{
				Authorities: []Authority{
					{URL: "http://tsa.example.org/stamp", CA: dir + "/tsa.pem", Policy: "1.3.6.1.4.1.13762.3"},
					{URL: "https://other.example.org", CA: "/etc/ssl/other.pem"},
				},
				Interval: 5 * time.Minute, Timeout: 3 * time.Second,
			},
			Retention: 10950 * time.Hour,
		},
		People: []Person{
			{ID: "alice@example.com", Name: "Alice Example", Email: "alice@example.com", UIDs: []uint32{1000, 1001}, Groups: []string{"security", "dba"}},
			{ID: "spiffe://example.com/people/bob", Email: "bob@example.com"},
		},
		Rights:   Rights{Separation: "required", PolicyApprovers: []string{"security"}, RequestTTL: 24 * time.Hour, LeaverLimit: 24 * time.Hour},
		Auditors: []string{"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"},
		Admin: Admin{
			Socket: "/run/exhibit/admin.sock",
			HTTPS:  HTTPS{Address: "0.0.0.0:8443", Cert: dir + "/tls/admin.pem", Key: dir + "/tls/admin.key", ClientCA: dir + "/tls/people.pem"},
		},
		Metrics: Metrics{Address: "[::1]:9464"},
		Listeners: []Listener{
			{Name: "local", Protocol: "postgres", Address: "/run/exhibit/.s.PGSQL.6433"},
			{Name: "agents", Protocol: "postgres", Address: "0.0.0.0:6433", TLS: ListenTLS{Cert: dir + "/tls/gw.pem", Key: dir + "/tls/gw.key"}},
			{Name: "services", Protocol: "http", Address: "127.0.0.1:8081"},
		},
		Resources: []Resource{
			{
				Name: "orders", Protocol: "postgres",
				Upstream: Upstream{
					Address: "db.example.com:5432", Database: "orders", User: "exhibit",
					Password: Secret{File: dir + "/secrets/orders"},
					TLS: UpstreamTLS{
						Mode: TLSVerifyFull, CA: dir + "/tls/db.pem", ServerName: "orders.db.example.com",
						Cert: dir + "/tls/exhibit.pem", Key: dir + "/tls/exhibit.key",
						Negotiation: NegotiationDirect, ChannelBinding: BindingRequire,
					},
					MaxProtocolVersion: "3.2",
				},
				Durability: DurabilityProcess,
				Labels:     map[string]string{"env": "production", "team": "shop"},
				Owner:      "alice@example.com",
				Approvers:  []string{"dba"},
			},
			{
				Name: "local", Protocol: "postgres",
				Upstream: Upstream{
					Address: "localhost:5432", Database: "app", User: "app",
					Password: Secret{Env: "APP_PASSWORD"}, TLS: UpstreamTLS{Mode: TLSDisable},
				},
				Durability: DurabilityPower,
			},
			{
				Name: "billing", Protocol: "http",
				Upstream: Upstream{
					Address: "billing.example.com:443", TLS: UpstreamTLS{Mode: TLSVerifyFull},
					OAuth: UpstreamOAuth{
						TokenURL: "https://login.example.com/token", ClientID: "exhibit", ClientSecret: Secret{File: dir + "/secrets/billing"},
						Scopes: []string{"billing"}, Audience: "billing",
					},
				},
				HTTP: HTTP{
					Hosts: []string{"billing.gw.example.com"}, Prefix: "/v1", Base: "/api", Host: "billing.example.com",
					HTTP2: true, Identity: true, OpenAPI: dir + "/billing.yaml", Match: []string{"/amount"},
				},
				Durability: DurabilityPower,
			},
			{
				Name: "shop", Protocol: "http",
				Upstream: Upstream{
					Address: "127.0.0.1:8080", TLS: UpstreamTLS{Mode: TLSDisable},
					Header: UpstreamHeader{Name: "X-Api-Key", Prefix: "Key ", Value: Secret{Env: "SHOP_KEY"}},
				},
				HTTP:       HTTP{Prefix: "/shop", Routes: []string{"GET /items/{id}"}},
				Durability: DurabilityPower,
			},
			{
				Name: "files", Protocol: "mcp", Upstream: Upstream{TLS: UpstreamTLS{Mode: TLSVerifyFull}},
				MCP: MCP{
					Hosts: []string{"files.gw.example.com"}, Prefix: "/files", Endpoint: "/mcp",
					Command: []string{dir + "/bin/mcp-files", "/srv/files"}, Dir: dir + "/work",
					Env:   map[string]EnvVar{"PATH": {Value: "/usr/bin"}, "API_KEY": {File: dir + "/secrets/files"}, "LANG": {Env: "LANG"}},
					Tools: map[string]string{"read_file": "6f3f2c1d6c2f3b1b8f0f4d3f2e1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a"}, Accept: AcceptListed,
					TrustAnnotations: true, Match: []string{"/path"}, MessageBytes: 1 << 20,
				},
				Durability: DurabilityPower,
			},
			{
				Name: "search", Protocol: "mcp", Upstream: Upstream{Address: "127.0.0.1:3001", TLS: UpstreamTLS{Mode: TLSDisable}},
				MCP:        MCP{Prefix: "/search", Endpoint: "/api/mcp", Host: "search.example.com", Identity: true, Accept: AcceptAll, MessageBytes: 8 << 20},
				Durability: DurabilityPower,
			},
			{
				Name: "prod", Protocol: "kubernetes", Upstream: Upstream{
					Address: "kube.example.com:6443", TLS: UpstreamTLS{Mode: TLSVerifyFull, CA: dir + "/kube-ca.pem"},
					Header: UpstreamHeader{Name: "Authorization", Prefix: "Bearer ", Value: Secret{File: dir + "/secrets/kube"}},
				},
				Kubernetes: Kubernetes{
					Hosts: []string{"kube.gw.example.com"}, Prefix: "/prod", Host: "kube.example.com",
					UserPrefix: "agent:", Groups: []string{"agents"}, Extra: true,
				},
				Durability: DurabilityPower,
			},
			{
				Name: "test", Protocol: "kubernetes", Upstream: Upstream{Kubeconfig: dir + "/kube/test.config", Context: "test", TLS: UpstreamTLS{Mode: TLSVerifyFull}},
				Kubernetes: Kubernetes{
					Prefix: "/test", UserPrefix: "exhibit:", Groups: []string{"exhibit:agents"}, Account: "system:serviceaccount:exhibit:exhibit",
					Unlogged: []Unlogged{{Verb: "get", Resource: "/readyz", Reason: "left out by the audit policy"}},
				},
				Durability: DurabilityPower, Reconcile: Reconcile{Log: dir + "/log/audit*.log", Format: LogAudit, Every: 30 * time.Second},
				Direct: []Direct{{Group: "system:nodes", From: "10.0.0.0/8", Reason: "kubelets"}},
			},
		},
		Endpoints: []Endpoint{{
			Hosts: []string{"tools.gw.example.com"}, Prefix: "/all", Members: map[string]string{"files": "files", "web-search": "search"},
		}},
		Issuer:   "https://gateway.example.com:8443",
		Policies: dir + "/policies",
		Limits:   Limits{Sessions: 10, SessionsPerAgent: 2, TokenTTL: 5 * time.Minute, Handshake: 3 * time.Second, SessionIdle: time.Minute, MessageBytes: 1 << 20},
		Sinks: []Sink{
			{
				Name: "siem", URL: "https://siem.example.com/in", CA: dir + "/siem.pem", From: "2026-11-01",
				Header: UpstreamHeader{Name: "Authorization", Prefix: "Bearer ", Value: Secret{File: dir + "/secrets/siem"}},
			},
			{Name: "collector", Syslog: "tls://logs.example.com:6514"},
			{Name: "lines", File: dir + "/events.jsonl"},
		},
		Alerts: Alerts{
			Webhooks: []Webhook{{
				URL: "https://hooks.example.com/exhibit", Least: "medium",
				Header: UpstreamHeader{Name: "Authorization", Prefix: "Bearer ", Value: Secret{File: dir + "/secrets/hook"}},
			}},
			Syslog: []Syslog{{Address: "tls://logs.example.com:6514", Least: "high"}, {Address: "unix:/dev/log"}},
		},
		Sealing: Sealing{Interval: 500 * time.Millisecond, BlockBytes: 65536, MaxUnsealedAge: 30 * time.Minute, MaxUnsealedBytes: 64 << 20, Heartbeat: 30 * time.Second},
	}
	text := c.text
	c.text, c.file = nil, ""
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	c.text = text
	if c.Digest() != Digest(c.Text()) || len(c.Digest()) != 64 {
		t.Errorf("digest %q", c.Digest())
	}
	if r, err := c.Recipients(); err != nil || len(r) != 1 {
		t.Errorf("recipients: %v, %v", r, err)
	}
	b := c.Evidence()
	if got := b.Resources[0]; !reflect.DeepEqual(got, evidence.Resource{
		Name: "orders", Protocol: "postgres", Durability: "process", Labels: want.Resources[0].Labels,
		Owner: "alice@example.com", Approvers: []string{"dba"},
	}) {
		t.Errorf("evidence of orders: %+v", got)
	}
	if !reflect.DeepEqual(b.People, []evidence.Member{{ID: "alice@example.com", Groups: []string{"security", "dba"}}, {ID: "spiffe://example.com/people/bob"}}) ||
		b.Separation != "required" || !reflect.DeepEqual(b.PolicyApprovers, []string{"security"}) || b.Digest != c.Digest() || b.Text != c.Text() {
		t.Errorf("evidence of people and rights: %+v", b)
	}
}

// Whatever is wrong with a file is said in one go, with line, column and hint.
func TestErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse("exhibit.yaml", text)
			var list Errors
			if !errors.As(err, &list) {
				t.Fatalf("got %v, want Errors", err)
			}
			got := list.Error() + "\n"
			if strings.Contains(got, "correct-horse") {
				t.Error("an error shows a secret")
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// The file that init writes is valid, says what the defaults are, and survives
// odd names.
func TestTemplate(t *testing.T) {
	for _, organisation := range []string{"Example Ltd", "O'Brien & Sons: #1", "true", "- x", "{a}"} {
		text, err := Template(Params{
			Gateway: "gw1", Organisation: organisation, Origin: "example.com/gw1",
			Data: "/var/lib/exhibit", Policies: "policies", Listen: "127.0.0.1:6433", Resource: "orders",
			Person:   Person{ID: "alice@example.com", Name: "Alice", Email: "alice@example.com", UIDs: []uint32{0, 1000}},
			Upstream: Upstream{Address: "127.0.0.1:5432", Database: "orders", User: "exhibit"},
		})
		if err != nil {
			t.Fatal(err)
		}
		c, err := Parse("/etc/exhibit/exhibit.yaml", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if c.Organisation != organisation {
			t.Errorf("organisation %q became %q", organisation, c.Organisation)
		}
		defaults := New()
		if c.Rights.Separation != "reported" || c.Rights.RequestTTL != defaults.Rights.RequestTTL {
			t.Errorf("rights: %+v", c.Rights)
		}
		if c.Limits != defaults.Limits || c.Sealing != defaults.Sealing || c.Metrics != defaults.Metrics {
			t.Errorf("the template shows %+v %+v, the defaults are %+v %+v", c.Limits, c.Sealing, defaults.Limits, defaults.Sealing)
		}
		if c.Policies != "/etc/exhibit/policies" || c.Admin.Socket != "/var/lib/exhibit/admin.sock" {
			t.Errorf("paths: %s, %s", c.Policies, c.Admin.Socket)
		}
	}
}

// Keys that are left out, or have no value, keep their defaults.
func TestDefaults(t *testing.T) {
	c, err := Parse("/x/exhibit.yaml", []byte(minimal+"limits: {sessions: 3, sessions_per_agent: }\nsealing:\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Limits.Sessions != 3 || c.Limits.SessionsPerAgent != 3 || c.Limits.TokenTTL != 15*time.Minute || c.Sealing != New().Sealing {
		t.Errorf("%+v %+v", c.Limits, c.Sealing)
	}
	if r := c.Resources[0]; r.Durability != DurabilityPower || r.Upstream.TLS.Mode != TLSDisable {
		t.Errorf("%+v", r)
	}
}

// One person can do nothing that needs two; of several that is expected unless
// the file says otherwise.
func TestSeparationByDefault(t *testing.T) {
	two := strings.Replace(minimal, "uids: [1000]}", "uids: [1000]}, {id: bob@example.com}", 1)
	for text, want := range map[string]string{
		minimal: "reported", minimal + "rights: {separation: }\n": "reported",
		two: "required", two + "rights: {request_ttl: 1h}\n": "required", two + "rights: {separation: reported}\n": "reported",
	} {
		c, err := Parse("/x/exhibit.yaml", []byte(text))
		if err != nil || c.Rights.Separation != want {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
	}
}

func TestPeople(t *testing.T) {
	c, err := Load("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := c.PersonByUID(1001); !ok || p.ID != "alice@example.com" {
		t.Errorf("uid 1001 is %v, %v", p, ok)
	}
	if p, ok := c.PersonByUID(0); ok {
		t.Errorf("uid 0 is %v: root is nobody unless the file says so", p)
	}
	for _, test := range []struct {
		emails, uris []string
		want         string
	}{
		{[]string{"ALICE@example.com"}, nil, "alice@example.com"},
		{nil, []string{"spiffe://example.com/people/bob"}, "spiffe://example.com/people/bob"},
		{[]string{"alice@example.com", "bob@example.com"}, nil, ""},
		{[]string{""}, []string{""}, ""},
		{[]string{"eve@example.com"}, nil, ""},
	} {
		if p, ok := c.PersonByCertificate(test.emails, test.uris); p.ID != test.want || ok != (test.want != "") {
			t.Errorf("%v %v is %q, want %q", test.emails, test.uris, p.ID, test.want)
		}
	}
}

func TestSecret(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("s3cret \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("EXHIBIT_TEST_SECRET", "other")
	for _, test := range []struct {
		s    Secret
		want string
		ok   bool
	}{
		{Secret{File: file}, "s3cret ", true},
		{Secret{Env: "EXHIBIT_TEST_SECRET"}, "other", true},
		{Secret{Env: "EXHIBIT_TEST_UNSET"}, "", false},
		{Secret{File: file + "x"}, "", false},
		{Secret{}, "", true},
	} {
		if got, err := test.s.Read(); got != test.want || (err == nil) != test.ok {
			t.Errorf("%+v: %q, %v", test.s, got, err)
		}
	}
	if err := CheckPermissions(file); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := CheckPermissions(file); err == nil {
		t.Error("a secret that everyone can read passes")
	}
}

func TestLocal(t *testing.T) {
	for address, want := range map[string]bool{
		"/run/x.sock": true, "127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "127.9.9.9:1": true,
		"0.0.0.0:1": false, ":1": false, "db:1": false, "10.0.0.1:1": false, "": false,
	} {
		if Local(address) != want {
			t.Errorf("Local(%q) = %v", address, !want)
		}
	}
}

const minimal = `gateway: gw1
organisation: Example Ltd
data: d
log: {origin: example.com/gw1}
people: [{id: alice@example.com, uids: [1000]}]
policies: p
listeners: [{name: pg, protocol: postgres, address: '127.0.0.1:6433'}]
resources: [{name: a, protocol: postgres, upstream: {address: '127.0.0.1:5432', database: d, user: u}}]
`

// No text makes parsing panic, and what parses has been validated.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/errors/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "testdata/full.yaml") {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(minimal))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse("exhibit.yaml", text)
		if err != nil {
			return
		}
		if !evidence.ValidGateway(c.Gateway) || len(c.People) == 0 || !bytes.Equal(c.text, text) {
			t.Errorf("%+v", c)
		}
	})
}
