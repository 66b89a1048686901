// Package config turns one YAML file into one valid Config, or into all of its
// errors, each with line, column and a hint. It opens no other file and reads
// no secret: a Config holds references to secrets, and Secret.Read follows one
// when its owner asks.
package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Config is everything that an operator decides about one gateway. Relative
// paths of the file are relative to its folder; here all paths are absolute.
type Config struct {
	Gateway      string     `yaml:"gateway"`      // names the gateway in every position
	Organisation string     `yaml:"organisation"` // as it appears on packs
	Data         string     `yaml:"data"`         // folder of journal, blocks, log and keys
	Log          Log        `yaml:"log"`
	People       []Person   `yaml:"people"`
	Auditors     []string   `yaml:"auditors"` // age recipients of session keys
	Admin        Admin      `yaml:"admin"`
	Metrics      Metrics    `yaml:"metrics"`
	Listeners    []Listener `yaml:"listeners"`
	Resources    []Resource `yaml:"resources"`
	Endpoints    []Endpoint `yaml:"endpoints"`
	Policies     string     `yaml:"policies"` // folder of Cedar files
	Rights       Rights     `yaml:"rights"`
	Issuer       string     `yaml:"issuer"` // URL at which agents get tokens, as clients of MCP are told
	Limits       Limits     `yaml:"limits"`
	Sealing      Sealing    `yaml:"sealing"`
	Alerts       Alerts     `yaml:"alerts"`
	Sinks        []Sink     `yaml:"sinks"` // that are delivered the log as it grows

	file string
	text []byte
}

// Log is the gateway's transparency log.
type Log struct {
	// Origin names the log in its checkpoints (C2SP tlog-checkpoint): a URL
	// without scheme, unique in the world and never changed.
	Origin string `yaml:"origin"`

	Witnesses []Witness `yaml:"witnesses"` // that cosign its checkpoints
	Quorum    int       `yaml:"quorum"`    // cosignatures that a checkpoint needs; default: all of them

	Timestamps Timestamps `yaml:"timestamps"` // of its checkpoints

	Retention time.Duration `yaml:"retention"` // after which its blocks can be disposed of; 0: they are kept for ever
}

// Witness is a party outside the gateway that remembers what it has seen of the
// log (C2SP tlog-witness).
type Witness struct {
	URL string `yaml:"url"` // to which /add-checkpoint is appended
	Key string `yaml:"key"` // verifier key of its cosignatures (C2SP tlog-cosignature)
}

// Timestamps say who stamps checkpoints, and how often.
type Timestamps struct {
	Authorities []Authority   `yaml:"authorities"`
	Interval    time.Duration `yaml:"interval"` // between two stamps of one
	Timeout     time.Duration `yaml:"timeout"`  // of one request
}

// Authority is a time stamp authority (RFC 3161).
type Authority struct {
	URL    string `yaml:"url"`
	CA     string `yaml:"ca"`     // PEM file of the roots that its certificate must lead to
	Policy string `yaml:"policy"` // object identifier that it must stamp under; default: any
}

// Person is a human being who may act on the gateway, and how they are known:
// by the uid of their process on the admin socket, or by a client certificate
// whose e-mail address is Email or whose URI is ID.
type Person struct {
	ID    string   `yaml:"id"`
	Name  string   `yaml:"name"`
	Email string   `yaml:"email"`
	UIDs  []uint32 `yaml:"uids"`

	Groups []string `yaml:"groups"` // that they approve for
}

// Evidence returns p as records name it.
func (p Person) Evidence() evidence.Person {
	return evidence.Person{ID: p.ID, Name: p.Name, Email: p.Email}
}

// Rights says how many people it takes to give them.
type Rights struct {
	// Separation is evidence.SeparationRequired or SeparationReported. Default:
	// reported of a single person, who could do nothing otherwise, and required
	// of several.
	Separation      string        `yaml:"separation"`
	PolicyApprovers []string      `yaml:"policy_approvers"` // groups; default: anyone but who asks
	RequestTTL      time.Duration `yaml:"request_ttl"`      // how long a request waits, and what it approved waits to be used
	LeaverLimit     time.Duration `yaml:"leaver_limit"`     // within which the access of who left must have ended
}

// Admin is where people and agents reach the API.
type Admin struct {
	Socket string `yaml:"socket"` // default: admin.sock in the data folder
	HTTPS  HTTPS  `yaml:"https"`
}

// HTTPS is the API over the network; off when Address is empty.
type HTTPS struct {
	Address  string `yaml:"address"`
	Cert     string `yaml:"cert"`
	Key      string `yaml:"key"`
	ClientCA string `yaml:"client_ca"`
}

// Metrics serves /metrics, /healthz and /readyz; off when Address is empty.
type Metrics struct {
	Address string `yaml:"address"`
}

// Listener is where agents connect.
type Listener struct {
	Name     string    `yaml:"name"`
	Protocol string    `yaml:"protocol"`
	Address  string    `yaml:"address"` // host:port, or the path of a unix socket
	TLS      ListenTLS `yaml:"tls"`
}

// ListenTLS is the agent's leg; plain when empty.
type ListenTLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Resource is a system that agents reach through the gateway.
type Resource struct {
	Name       string            `yaml:"name"`
	Protocol   string            `yaml:"protocol"`
	Upstream   Upstream          `yaml:"upstream"`
	HTTP       HTTP              `yaml:"http"`
	MCP        MCP               `yaml:"mcp"`
	Kubernetes Kubernetes        `yaml:"kubernetes"`
	Durability string            `yaml:"durability"` // of reads: DurabilityPower or DurabilityProcess
	Labels     map[string]string `yaml:"labels"`

	Owner     string   `yaml:"owner"`     // id of the person who answers for it
	Approvers []string `yaml:"approvers"` // groups whose people approve grants on it, as its owner does

	Reconcile Reconcile `yaml:"reconcile"`
	Direct    []Direct  `yaml:"direct"` // who else may connect to its server
}

// Reconcile says where the server of a resource logs its sessions, and how often
// that is held against the gateway's.
type Reconcile struct {
	Log    string        `yaml:"log"`    // pattern of the log's files, whose names sort by age
	Format string        `yaml:"format"` // LogCSV, LogJSON or LogAudit
	Every  time.Duration `yaml:"every"`  // 0 is only when somebody asks
}

// Formats of a server's log.
const (
	LogCSV   = "csvlog" // of PostgreSQL
	LogJSON  = "jsonlog"
	LogAudit = "audit" // of Kubernetes, and its default
)

// Direct is somebody who may connect to a server without the gateway.
type Direct struct {
	User   string `yaml:"user"`
	Group  string `yaml:"group"` // of a cluster, in which the user is
	From   string `yaml:"from"`  // an address, a prefix like 10.0.0.0/8, or local for a unix socket
	Reason string `yaml:"reason"`
}

// HTTP says which requests are meant for a resource of the protocol http, and
// how they are understood.
type HTTP struct {
	Hosts    []string `yaml:"hosts"`    // that requests name; none is any that no other resource has
	Prefix   string   `yaml:"prefix"`   // of the path; taken off before the request goes on
	Base     string   `yaml:"base"`     // put before the path as it goes on
	Host     string   `yaml:"host"`     // that the upstream is asked for; default: its address
	HTTP2    bool     `yaml:"http2"`    // the upstream speaks HTTP/2, as gRPC needs
	Identity bool     `yaml:"identity"` // tell the upstream for whom the gateway asks
	OpenAPI  string   `yaml:"openapi"`  // an OpenAPI 3 document that names the operations
	Routes   []string `yaml:"routes"`   // or the operations themselves, like "GET /invoices/{id}"
	Match    []string `yaml:"match"`    // JSON pointers into contents; policy sees the values
}

// MCP says which requests are meant for a resource of the protocol mcp, and what
// of its server is accepted.
type MCP struct {
	Hosts    []string `yaml:"hosts"`    // that requests name; none is any that no other resource has
	Prefix   string   `yaml:"prefix"`   // the path at which agents find it; default: /
	Endpoint string   `yaml:"endpoint"` // the path of the server; default: /mcp
	Host     string   `yaml:"host"`     // that the upstream is asked for; default: its address
	Identity bool     `yaml:"identity"` // tell the upstream for whom the gateway asks

	Command []string          `yaml:"command"` // starts the server instead, to speak over its standard input and output
	Dir     string            `yaml:"dir"`     // that it is started in
	Env     map[string]EnvVar `yaml:"env"`     // all of its environment

	Tools            map[string]string `yaml:"tools"`             // digests of accepted definitions, by name
	Accept           string            `yaml:"accept"`            // AcceptListed or AcceptAll
	TrustAnnotations bool              `yaml:"trust_annotations"` // a tool that says it only reads is a read
	Match            []string          `yaml:"match"`             // JSON pointers into arguments; policy sees the values
	MessageBytes     Size              `yaml:"message_bytes"`     // largest message, either way
}

// Kubernetes says which requests are meant for a cluster, and as whom agents
// come to it.
type Kubernetes struct {
	Hosts      []string `yaml:"hosts"`       // that requests name; none is any that no other cluster has
	Prefix     string   `yaml:"prefix"`      // of the path; taken off before the request goes on
	Host       string   `yaml:"host"`        // that the API server is asked for; default: its address
	UserPrefix string   `yaml:"user_prefix"` // put before an agent's id to make the user
	Groups     []string `yaml:"groups"`      // that all agents are in
	Extra      bool     `yaml:"extra"`       // the cluster is also told session, principal and ticket

	Account  string     `yaml:"account"`  // the user that the gateway itself is there, by which its requests are known in the audit log
	Unlogged []Unlogged `yaml:"unlogged"` // what the cluster's audit policy leaves out
}

// Unlogged are requests that a cluster's audit log doesn't have.
type Unlogged struct {
	Verb     string `yaml:"verb"`
	Resource string `yaml:"resource"` // resource.group, or the path of what is no resource
	Reason   string `yaml:"reason"`
}

// Endpoint is several resources of the protocol mcp that agents see as one
// server.
type Endpoint struct {
	Hosts   []string          `yaml:"hosts"`   // that requests name; none is any that nothing else has
	Prefix  string            `yaml:"prefix"`  // the path at which agents find it; default: /
	Members map[string]string `yaml:"members"` // resources, by the names that their tools begin with
}

// Which tools of a server are accepted.
const (
	AcceptListed = "listed" // those whose definitions tools names
	AcceptAll    = "all"
)

// EnvVar is a variable of a process's environment, or where its value is.
type EnvVar struct {
	Value string `yaml:"value"`
	File  string `yaml:"file"`
	Env   string `yaml:"env"`
}

// Secret is where the value is.
func (v EnvVar) Secret() Secret { return Secret{File: v.File, Env: v.Env} }

// What an intent to read must survive before it is forwarded. Every other
// intent survives power loss.
const (
	DurabilityPower   = "power"
	DurabilityProcess = "process"
)

// Upstream is where a resource is and the account that agents never see.
type Upstream struct {
	Address  string      `yaml:"address"` // host:port, or the path of a unix socket
	Database string      `yaml:"database"`
	User     string      `yaml:"user"`
	Password Secret      `yaml:"password"`
	TLS      UpstreamTLS `yaml:"tls"`

	MaxProtocolVersion string `yaml:"max_protocol_version"` // "3.0" or "3.2"

	Header UpstreamHeader `yaml:"header"` // of protocols above HTTP: what proves the account there
	OAuth  UpstreamOAuth  `yaml:"oauth"`  // or where to get that from

	Kubeconfig string `yaml:"kubeconfig"` // of clusters: the file where all of this stands instead
	Context    string `yaml:"context"`    // of it; default: its current one
}

// UpstreamHeader is a field that proves the account to an upstream.
type UpstreamHeader struct {
	Name   string `yaml:"name"`   // for example Authorization, or X-Api-Key
	Prefix string `yaml:"prefix"` // put before the value, for example "Bearer "
	Value  Secret `yaml:"value"`
}

// UpstreamOAuth is where the gateway gets a bearer token for an upstream (RFC
// 6749 section 4.4).
type UpstreamOAuth struct {
	TokenURL     string   `yaml:"token_url"`
	ClientID     string   `yaml:"client_id"`
	ClientSecret Secret   `yaml:"client_secret"`
	Scopes       []string `yaml:"scopes"`
	Audience     string   `yaml:"audience"`
}

// UpstreamTLS is the gateway's leg.
type UpstreamTLS struct {
	Mode       string `yaml:"mode"`        // TLSDisable, TLSVerifyCA or TLSVerifyFull
	CA         string `yaml:"ca"`          // PEM file; default: the system's roots
	ServerName string `yaml:"server_name"` // default: the host of the address

	Cert string `yaml:"cert"` // PEM file of the account's client certificate
	Key  string `yaml:"key"`

	Negotiation    string `yaml:"negotiation"`     // NegotiationPostgres or NegotiationDirect
	ChannelBinding string `yaml:"channel_binding"` // BindingPrefer or BindingRequire
}

// Modes of an upstream's TLS, spelled as in libpq. Encryption without
// verification ("require") is not offered: it stops nobody on the path.
const (
	TLSDisable    = "disable"
	TLSVerifyCA   = "verify-ca"
	TLSVerifyFull = "verify-full"
)

// How TLS begins with an upstream, and whether the login must be bound to it,
// spelled as in libpq.
const (
	NegotiationPostgres = "postgres" // once the server has been asked
	NegotiationDirect   = "direct"   // at once
	BindingPrefer       = "prefer"
	BindingRequire      = "require"
)

// Secret says where a secret is: in a file or in an environment variable.
type Secret struct {
	File string `yaml:"file"`
	Env  string `yaml:"env"`
}

// IsZero reports whether s refers to nothing.
func (s Secret) IsZero() bool { return s == Secret{} }

// maxSecret bounds what is read from a secret's file.
const maxSecret = 64 << 10

// Read returns the secret without the newline that ends its file. Its errors
// name the place and never the content.
func (s Secret) Read() (string, error) {
	switch {
	case s.File != "":
		f, err := os.Open(s.File)
		if err != nil {
			return "", fmt.Errorf("reading a secret: %w", err)
		}
		b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
		if err := errors.Join(err, f.Close()); err != nil {
			return "", fmt.Errorf("reading a secret: %w", err)
		}
		if len(b) > maxSecret {
			return "", fmt.Errorf("reading a secret: %s is larger than %d bytes", s.File, maxSecret)
		}
		return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), nil
	case s.Env != "":
		v, ok := os.LookupEnv(s.Env)
		if !ok {
			return "", fmt.Errorf("reading a secret: the environment has no variable %s", s.Env)
		}
		return v, nil
	}
	return "", nil
}

// Limits bound what agents can make the gateway do.
type Limits struct {
	Sessions         int           `yaml:"sessions"`           // at once, all agents together
	SessionsPerAgent int           `yaml:"sessions_per_agent"` // at once
	TokenTTL         time.Duration `yaml:"token_ttl"`          // life of a token
	Handshake        time.Duration `yaml:"handshake"`          // from accept to a proven identity
	SessionIdle      time.Duration `yaml:"session_idle"`       // until a session without requests ends, in protocols above HTTP
	MessageBytes     Size          `yaml:"message_bytes"`      // largest single protocol message from an agent
	ShutdownGrace    time.Duration `yaml:"shutdown_grace"`     // for sessions to end when the gateway stops
}

// Sealing says when the journal becomes blocks of the log, and how long
// sessions may go on when it can't.
type Sealing struct {
	Interval         time.Duration `yaml:"interval"`
	BlockBytes       Size          `yaml:"block_bytes"`
	MaxUnsealedAge   time.Duration `yaml:"max_unsealed_age"`
	MaxUnsealedBytes Size          `yaml:"max_unsealed_bytes"`
	Heartbeat        time.Duration `yaml:"heartbeat"` // longest silence in the log
}

// Size is a number of bytes, written as a number or with KiB, MiB or GiB.
type Size int64

// String returns the shortest spelling that is exact.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && s%u.bytes == 0 {
			return fmt.Sprintf("%d%s", s/u.bytes, u.name)
		}
	}
	return fmt.Sprint(int64(s))
}

// New returns a Config with every default set, as decoding begins with it.
func New() *Config {
	return &Config{
		Log:     Log{Timestamps: Timestamps{Interval: 10 * time.Minute, Timeout: 10 * time.Second}},
		Metrics: Metrics{Address: "127.0.0.1:9464"},
		Rights:  Rights{RequestTTL: 72 * time.Hour, LeaverLimit: 24 * time.Hour},
		Limits: Limits{
			Sessions:         512,
			SessionsPerAgent: 64,
			TokenTTL:         15 * time.Minute,
			Handshake:        10 * time.Second,
			SessionIdle:      5 * time.Minute,
			MessageBytes:     64 << 20,
			ShutdownGrace:    10 * time.Second,
		},
		Sealing: Sealing{
			Interval:         time.Second,
			BlockBytes:       4 << 20,
			MaxUnsealedAge:   time.Hour,
			MaxUnsealedBytes: 1 << 30,
			Heartbeat:        time.Minute,
		},
	}
}

// maxFile bounds the file: it is recorded whole with every change.
const maxFile = 1 << 20

// Load reads and parses the file at path. What is wrong with its content is
// reported as Errors.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("reading the configuration: %s is larger than 1 MiB", path)
	}
	return Parse(path, text)
}

// Parse parses text as the content of the file at path, which it does not
// read: path stands in errors, and relative paths are relative to its folder.
func Parse(path string, text []byte) (*Config, error) {
	c := New()
	c.file, c.text = path, text
	d := decode(path, text, c)
	if !d.broken {
		c.complete(d, filepath.Dir(path))
		c.validate(d)
	}
	if len(d.errs) > 0 {
		return nil, d.sorted()
	}
	return c, nil
}

// File returns the path of the file.
func (c *Config) File() string { return c.file }

// Text returns the exact content of the file. It holds no secret.
func (c *Config) Text() string { return string(c.text) }

// Digest returns the digest of the file's exact content, as records cite it.
func (c *Config) Digest() string { return Digest(string(c.text)) }

// Digest returns the SHA-256 of text in hex.
func Digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// Evidence returns what a config.change record says of c: its text, and what
// decisions and approvals go by. Who changed what is left open.
func (c *Config) Evidence() evidence.ConfigBody {
	b := evidence.ConfigBody{
		Digest: c.Digest(), Text: c.Text(), Resources: c.EvidenceResources(),
		Separation: c.Rights.Separation, PolicyApprovers: c.Rights.PolicyApprovers, LeaverLimit: int64(c.Rights.LeaverLimit / time.Second),
		Retention: int64(c.Log.Retention / time.Second),
	}
	for _, p := range c.People {
		b.People = append(b.People, evidence.Member{ID: p.ID, Groups: p.Groups})
	}
	return b
}

// EvidenceResources returns the resources as a config.change record names
// them, in the order of the file.
func (c *Config) EvidenceResources() []evidence.Resource {
	list := make([]evidence.Resource, len(c.Resources))
	for i, r := range c.Resources {
		list[i] = evidence.Resource{
			Name: r.Name, Protocol: r.Protocol, Labels: r.Labels, Durability: r.Durability,
			Owner: r.Owner, Approvers: r.Approvers,
		}
		for _, d := range r.Direct {
			list[i].Direct = append(list[i].Direct, evidence.Direct{User: d.User, Group: d.Group, From: d.From, Reason: d.Reason})
		}
		if k := r.Kubernetes; r.Protocol == "kubernetes" {
			list[i].Cluster = &evidence.Cluster{Account: k.Account, Prefix: k.UserPrefix, Groups: k.Groups}
			for _, u := range k.Unlogged {
				list[i].Cluster.Unlogged = append(list[i].Cluster.Unlogged, evidence.Unlogged(u))
			}
		}
	}
	return list
}

// Recipients returns the auditors' age recipients.
func (c *Config) Recipients() ([]age.Recipient, error) {
	if len(c.Auditors) == 0 {
		return nil, nil
	}
	list, err := age.ParseRecipients(strings.NewReader(strings.Join(c.Auditors, "\n")))
	if err != nil {
		return nil, fmt.Errorf("reading auditors: %w", err)
	}
	return list, nil
}

// PersonByUID returns the person whose processes run as uid.
func (c *Config) PersonByUID(uid uint32) (evidence.Person, bool) {
	for _, p := range c.People {
		for _, u := range p.UIDs {
			if u == uid {
				return p.Evidence(), true
			}
		}
	}
	return evidence.Person{}, false
}

// PersonByCertificate returns the person whom a certificate with these subject
// alternative names (RFC 5280 section 4.2.1.6) identifies. Names of two people
// identify nobody.
func (c *Config) PersonByCertificate(emails, uris []string) (evidence.Person, bool) {
	var found *Person
	for i := range c.People {
		if p := &c.People[i]; p.hasCertificate(emails, uris) {
			if found != nil {
				return evidence.Person{}, false
			}
			found = p
		}
	}
	if found == nil {
		return evidence.Person{}, false
	}
	return found.Evidence(), true
}

func (p *Person) hasCertificate(emails, uris []string) bool {
	for _, e := range emails {
		if p.Email != "" && strings.EqualFold(e, p.Email) {
			return true
		}
	}
	for _, u := range uris {
		if u == p.ID {
			return true
		}
	}
	return false
}
