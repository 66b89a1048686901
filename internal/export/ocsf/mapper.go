package ocsf

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Lookup returns the head and the body of the record at a position.
type Lookup func(context.Context, evidence.Position) (*evidence.Record, error)

// Mapper writes events. It is for one goroutine.
type Mapper struct {
	product product
	origin  string
	lookup  Lookup

	// What records leave to others, by position. It is what lookup would give
	// again, so that forgetting it costs time only.
	sessions map[evidence.Position]*course
	commands map[evidence.Position]*asked
	buf      bytes.Buffer
}

// New returns a mapper of the records of the log origin, written by a version
// of this program.
func New(origin, version string, lookup Lookup) *Mapper {
	return &Mapper{
		product: product{Name: "Exhibit", Vendor: "Exhibit", Version: version}, origin: origin, lookup: lookup,
		sessions: make(map[evidence.Position]*course), commands: make(map[evidence.Position]*asked),
	}
}

// course is what the records of a session leave to its start.
type course struct {
	agent, resource string
	body            evidence.SessionStartBody
}

// asked is what the end of a command leaves to its intent.
type asked struct {
	activity  activity
	operation string
	session   evidence.Position
}

// Bounds on what is remembered, and on what of a text or a list is passed on.
const (
	mostRemembered = 4096
	mostText       = 16 << 10
	mostListed     = 64
)

// Append appends the event of a record to b, as one line. It fails when what the
// record refers to can't be read, and never for what an agent put into it.
func (m *Mapper) Append(ctx context.Context, b []byte, r *evidence.Record) ([]byte, error) {
	to, ok := mappings[r.Head.Type]
	if !ok { // of a later version
		to = mapping{base, activity{other, string(r.Head.Type)}, func(*maker) error { return nil }}
	}
	k := &maker{m: m, ctx: ctx, r: r, h: &r.Head}
	k.begin(to)
	if err := to.fill(k); err != nil {
		return b, fmt.Errorf("record %s as an event: %w", r.Head.Pos, err)
	}
	k.finish()
	m.buf.Reset()
	e := json.NewEncoder(&m.buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(&k.e); err != nil {
		return b, fmt.Errorf("record %s as an event: %w", r.Head.Pos, err)
	}
	return append(b, m.buf.Bytes()...), nil
}

// maker makes one event.
type maker struct {
	m   *Mapper
	ctx context.Context //nolint:containedctx // it lives for one record
	r   *evidence.Record
	h   *evidence.Head
	e   event
}

// begin fills in what all events have.
func (k *maker) begin(to mapping) {
	h, e := k.h, &k.e
	k.class(to.class)
	k.activity(to.activity)
	e.SeverityID, e.StatusID = informational, success
	e.Time = h.Time / 1000
	if h.Micros > 0 {
		e.Duration = new(int64(h.Micros / 1000))
	}
	e.StatusCode = h.Code
	pos := h.Pos.String()
	e.Metadata = metadata{
		Version: Version, Product: k.m.product, UID: pos, Correlation: pos, EventCode: string(h.Type),
		LogName: k.m.origin, LogProvider: h.Pos.Gateway, Sequence: h.Pos.Seq,
	}
	if !h.Of.IsZero() && h.Type != evidence.CommandIntent {
		e.Metadata.Correlation = h.Of.String()
	}
	k.unmapped("agent", h.Agent)
	k.unmapped("resource", h.Resource)
	k.unmapped("verb", h.Verb)
	k.unmapped("effect", string(h.Effect))
	k.unmapped("outcome", string(h.Outcome))
	for _, n := range []struct {
		name string
		v    uint64
	}{{"rows", h.Rows}, {"bytes", h.Bytes}, {"reply_bytes", h.Reply}, {"frames", h.Frames}} {
		if n.v > 0 {
			k.put(n.name, n.v)
		}
	}
	if !h.Session.IsZero() {
		k.unmapped("session", h.Session.String())
	}
	e.RawData = string(k.r.HeadBytes)
	sum := sha256.Sum256(k.r.HeadBytes)
	e.RawDataHash = fingerprint{Algorithm: "SHA-256", AlgorithmID: 3, Value: hex.EncodeToString(sum[:])}
}

// finish fills in what depends on the rest.
func (k *maker) finish() {
	e := &k.e
	e.TypeUID = e.ClassUID*100 + e.ActivityID
	if e.ActionID != nil || e.DispositionID != nil || e.IsAlert || e.Authorizations != nil || e.Policy != nil {
		e.Metadata.Profiles = append(e.Metadata.Profiles, "security_control")
	}
	if e.Actor != nil && !ownActor[e.ClassUID] {
		e.Metadata.Profiles = append(e.Metadata.Profiles, "host")
	}
}

func (k *maker) class(c class) {
	k.e.ClassUID, k.e.ClassName, k.e.CategoryUID = c.uid, c.name, c.uid/1000
}

func (k *maker) activity(a activity) { k.e.ActivityID, k.e.ActivityName = a.id, a.name }

func (k *maker) put(name string, v any) {
	if k.e.Unmapped == nil {
		k.e.Unmapped = make(map[string]any)
	}
	k.e.Unmapped[name] = v
}

// unmapped keeps a text that the class has no attribute for.
func (k *maker) unmapped(name, v string) {
	if v != "" {
		k.put(name, k.text(v))
	}
}

// list keeps the first of a list.
func (k *maker) list(name string, l []string) {
	if len(l) == 0 {
		return
	}
	if len(l) > mostListed {
		k.put(name+"_count", len(l))
		k.e.Metadata.Truncated = true
	}
	out := make([]string, min(len(l), mostListed))
	for i := range out {
		out[i] = k.text(l[i])
	}
	k.put(name, out)
}

// text is as much of a text as is passed on.
func (k *maker) text(s string) string {
	if len(s) <= mostText {
		return s
	}
	k.e.Metadata.Truncated = true
	k.e.Metadata.Untruncated = max(k.e.Metadata.Untruncated, len(s))
	return cut(s, mostText)
}

// cut returns the first characters of s that most bytes hold.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// body decodes the body of the record. One that isn't there, or that another
// version of this program wrote, leaves the head alone to speak.
func body[T any](k *maker) (v T) {
	if !k.h.HasBody {
		return v
	}
	if k.r.Body == nil || evidence.DecodeBody(k.r.Body, &v) != nil {
		var zero T
		v = zero
		k.put("body", "not readable")
	}
	return v
}

// find reads another record. A reference that leads nowhere is nil: an event
// says less then, and the export goes on.
func (k *maker) find(pos evidence.Position, want evidence.Type) (*evidence.Record, error) {
	if pos.IsZero() || k.m.lookup == nil {
		return nil, nil
	}
	r, err := k.m.lookup(k.ctx, pos)
	if err != nil {
		return nil, fmt.Errorf("reading record %s: %w", pos, err)
	}
	if r == nil || r.Head.Pos != pos || r.Head.Type != want {
		return nil, nil
	}
	return r, nil
}

func remember[T any](m map[evidence.Position]*T, pos evidence.Position, v *T) *T {
	if len(m) >= mostRemembered {
		clear(m)
	}
	m[pos] = v
	return v
}

// session finds the start of the record's session.
func (k *maker) session(pos evidence.Position) (*course, error) {
	if c := k.m.sessions[pos]; c != nil {
		return c, nil
	}
	r, err := k.find(pos, evidence.SessionStart)
	if err != nil {
		return nil, err
	}
	c := &course{agent: k.h.Agent, resource: k.h.Resource}
	if r != nil {
		c.agent, c.resource = r.Head.Agent, r.Head.Resource
		c.body = decoded[evidence.SessionStartBody](r)
	}
	return remember(k.m.sessions, pos, c), nil
}

// command finds the intent that the record is about.
func (k *maker) command(pos evidence.Position) (*asked, error) {
	if a := k.m.commands[pos]; a != nil {
		return a, nil
	}
	r, err := k.find(pos, evidence.CommandIntent)
	if err != nil {
		return nil, err
	}
	a := &asked{activity: activity{other, "Unknown"}, operation: "unknown"}
	if r == nil {
		return a, nil
	}
	c, err := k.session(r.Head.Session)
	if err != nil {
		return nil, err
	}
	b := decoded[evidence.IntentBody](r)
	a.session = r.Head.Session
	a.activity, a.operation = activityOf(c.body.Protocol, r.Head.Verb, b.Checks), operationOf(&b)
	return remember(k.m.commands, pos, a), nil
}

func decoded[T any](r *evidence.Record) (v T) {
	if r.Body != nil && evidence.DecodeBody(r.Body, &v) != nil {
		var zero T
		return zero
	}
	return v
}

// within fills in what a record has of its session: who, from where, to what. The
// class is that of what the session reaches.
func (k *maker) within(pos evidence.Position) (*course, error) {
	c, err := k.session(pos)
	if err != nil {
		return nil, err
	}
	k.reach(c)
	if !pos.IsZero() {
		k.e.Actor.Session = &session{UID: pos.String(), Credential: c.body.Credential}
	}
	return c, nil
}

// reach fills in a system that an agent reaches.
func (k *maker) reach(c *course) {
	e, b := &k.e, &c.body
	name := orElse(c.resource, "unknown")
	e.Actor = &actor{User: agentUser(c.agent)}
	e.SrcEndpoint = endpointOf(orElse(b.Client, "unknown"))
	e.DstEndpoint = endpointOf(orElse(b.Upstream, name))
	e.DstEndpoint.Service = name
	k.unmapped("agent", c.agent)
	k.unmapped("resource", c.resource)
	k.unmapped("protocol", b.Protocol)
	k.unmapped("owner", b.Owner.ID)
	k.unmapped("principal", b.Principal)
	k.unmapped("ticket", b.Ticket)
	if typ, ok := databases[b.Protocol]; ok {
		k.class(datastore)
		e.Database = &database{Name: orElse(b.Database, name), UID: name, TypeID: typ}
		e.TypeID = new(1) // a database
		return
	}
	k.class(apiActivity)
	e.API = &api{Operation: e.ActivityName, Service: &service{Name: name, UID: name}}
	e.Resources = []resource{{UID: name, Name: name, Type: b.Protocol}}
}

// agentUser is an agent as a user.
func agentUser(id string) *user {
	if id == "" {
		return &user{Name: "unknown", TypeID: new(0)}
	}
	return &user{UID: id, Name: id, TypeID: new(4)} // a service
}

// personUser is a person as a user.
func personUser(p evidence.Person) *user {
	u := &user{UID: p.ID, Name: p.ID, Full: p.Name, TypeID: new(1)}
	if email(p.Email) {
		u.Email = p.Email
	}
	return u
}

// email reports whether the schema takes s for an address.
func email(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	plain := func(s, more string) bool {
		return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9') && !strings.ContainsRune(more, r)
		})
	}
	host, zone, dot := strings.Cut(domain, ".")
	return ok && dot && plain(local, "!#$%&'*+-/=?^_`{|}~.") && plain(host, "-") && plain(zone, "-.")
}

// by says who did it: a person, or the gateway by itself.
func (k *maker) by(by evidence.By) {
	if by.Person.ID == "" {
		k.e.Actor = &actor{AppName: k.m.product.Name, AppUID: k.h.Pos.Gateway}
	} else {
		k.e.Actor = &actor{User: personUser(by.Person)}
	}
	k.unmapped("via", by.Via)
}

// endpointOf is an address as an endpoint, whatever way it is written.
func endpointOf(address string) *endpoint {
	if a, err := netip.ParseAddrPort(address); err == nil {
		return &endpoint{IP: a.Addr().Unmap().String(), Port: a.Port()}
	}
	if a, err := netip.ParseAddr(address); err == nil {
		return &endpoint{IP: a.Unmap().String()}
	}
	if i := strings.LastIndexByte(address, ':'); i > 0 && !strings.ContainsAny(address, "/ =") {
		if port, err := strconv.ParseUint(address[i+1:], 10, 16); err == nil {
			return &endpoint{Host: address[:i], Port: uint16(port)}
		}
	}
	return &endpoint{Name: address}
}

// decided fills in what policy said.
func (k *maker) decided(d *evidence.Decision) {
	e := &k.e
	action, disposition := 1, 1 // allowed
	switch {
	case k.h.Outcome == evidence.Skipped:
		action, disposition = 2, 6 // dropped, for what went before it
		e.SeverityID = informational
	case k.h.Effect == evidence.Error:
		action, disposition = 2, 27
		e.SeverityID = medium
	case k.h.Effect != evidence.Allow:
		action, disposition = 2, 2 // blocked
		e.SeverityID = low
	}
	if action == 2 {
		e.StatusID = failure
		e.StatusDetail = k.text(d.Reason)
	}
	e.ActionID, e.DispositionID = &action, &disposition
	if d.Policy != "" {
		e.Policy = &policy{UID: d.Policy, Type: "Cedar bundle", Version: d.Policy, Applied: true}
	}
	for i, rule := range d.Rules {
		if i == mostListed {
			e.Metadata.Truncated = true
			break
		}
		e.Authorizations = append(e.Authorizations, authorization{
			Decision: string(k.h.Effect), Policy: &policy{UID: rule, Type: "Cedar policy", Version: d.Policy, Applied: true},
		})
	}
	if e.Authorizations == nil && k.h.Effect != "" {
		e.Authorizations = []authorization{{Decision: string(k.h.Effect)}}
	}
	k.list("grants", d.Grants)
	k.unmapped("approval", d.Approval)
	k.unmapped("limit", d.Limit)
}

// ended fills in how it ended.
func (k *maker) ended(o evidence.OutcomeClass) {
	e := &k.e
	switch o {
	case evidence.OK, "":
	case evidence.InDoubt:
		e.StatusID, e.StatusDetail, e.SeverityID = unknown, "nobody saw how it ended", medium
	case evidence.Denied:
		e.StatusID, e.SeverityID = failure, max(e.SeverityID, low)
	default:
		e.StatusID = failure
	}
}

// checks lists what was asked for, as "action object".
func (k *maker) checks(list []evidence.Check) {
	out := make([]string, len(list))
	for i, c := range list {
		out[i] = strings.TrimSuffix(c.Action+" "+c.Object, " ")
	}
	slices.Sort(out)
	k.list("checks", slices.Compact(out))
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
