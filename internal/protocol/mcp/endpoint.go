package mcp

import (
	"crypto/sha256"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// Endpoint is several servers that agents see as one. Each stays the resource
// that it is: what an agent asks of the endpoint is asked of one of them, or of
// each, as the agent could ask it there by itself.
type Endpoint struct {
	Prefix  string   // of the path, without a slash at its end
	Hosts   []string // in lower case, without port, whose requests are meant for it
	Members []Member // in the order in which they are listed
}

// Member is a resource that is part of an endpoint, and the name it has there.
type Member struct {
	Name     string
	Resource string
}

// OwnMember is the name under which the gateway is a member of each endpoint
// itself. No other may have it.
const OwnMember = "exhibit"

// meant is what requests may be meant for: a resource or an endpoint.
type meant struct {
	hosts  []string
	prefix string
	joined *Endpoint
}

// find finds what a request is meant for.
func (p *Protocol) find(host, path string) *meant {
	resources, endpoints := p.cfg.Resources(), p.cfg.Endpoints()
	all := make([]meant, 0, len(resources)+len(endpoints))
	for i := range resources {
		all = append(all, meant{hosts: resources[i].Hosts, prefix: resources[i].Prefix})
	}
	for i := range endpoints {
		all = append(all, meant{endpoints[i].Hosts, endpoints[i].Prefix, &endpoints[i]})
	}
	return httpgate.Find(all, func(m *meant) ([]string, string) { return m.hosts, m.prefix }, host, path)
}

// joined serves a request that is meant for an endpoint.
func (p *Protocol) joined(w http.ResponseWriter, r *http.Request, by *httpgate.Caller) bool {
	if len(p.cfg.Endpoints()) == 0 {
		return false
	}
	path, err := httpgate.NormalPath(r.URL.EscapedPath())
	if err != nil {
		return false
	}
	to := p.find(hostOf(r.Host), path)
	if to == nil || to.joined == nil {
		return false
	}
	f := &front{p: p, e: to.joined, w: w, r: r, by: by, ctx: r.Context()}
	f.serve(strings.TrimPrefix(path, to.joined.Prefix))
	return true
}

// joint is a session of an agent's at an endpoint, or all its requests there
// that stand for themselves.
type joint struct {
	key  jointKey
	legs []*leg

	opening []byte // the agent's initialize; nil where requests stand for themselves
	version string // of the protocol, in all of its sessions

	mu      sync.Mutex
	in      string // the member that let the agent in last
	used    time.Time
	running int
	begun   bool // the agent has said that it is initialized
	quiet   bool // the agent wants to hear of errors only
	flights []*flight
	past    []landed // the newest
}

// landed is a request whose answer stands in a stream of a member's that may be
// taken up again, so that it may come again.
type landed struct{ key, member string }

// jointKey is whose a joint is, where, and its Mcp-Session-Id; "" is requests
// that stand for themselves.
type jointKey struct {
	credential [sha256.Size]byte
	endpoint   string
	id         string
}

// leg is a joint's part at one member.
type leg struct {
	Member
	label label

	opening sync.Mutex // one initialize at a time

	mu      sync.Mutex
	up      bool
	session string          // the member's Mcp-Session-Id, which may be none
	offers  map[string]bool // its capabilities; nil is that nothing is known
	why     string          // it isn't up
	again   time.Time       // when it is tried again by itself
	told    string          // what the agent was told of that
}

// flight is a request of the agent's on its way.
type flight struct {
	key    string          // of its id
	token  string          // by which members tell of its progress; "" is none
	to     map[string]bool // names of members that have got it
	halted bool            // it isn't answered, but nobody waits for it here any more
}

func newJoint(key jointKey, e *Endpoint) *joint {
	j := &joint{key: key, used: time.Now()}
	for _, m := range e.Members {
		j.legs = append(j.legs, &leg{Member: m, label: label(m.Name)})
	}
	return j
}

// whole reports whether a joint still has the members of its endpoint, which a
// reload may have changed.
func (j *joint) whole(e *Endpoint) bool {
	return slices.EqualFunc(j.legs, e.Members, func(l *leg, m Member) bool { return l.Member == m })
}

// leg returns the leg of a label; nil is none.
func (j *joint) leg(name label) *leg {
	for _, l := range j.legs {
		if l.label == name {
			return l
		}
	}
	return nil
}

// isUp reports whether the leg has a session, and which.
func (l *leg) isUp() (session string, up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session, l.up
}

// offersAny reports whether the member says that it has a capability. Of one of
// which nothing is known it is believed.
func (l *leg) offersAny(capability string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.offers == nil || capability == "" {
		return true
	}
	return l.offers[capability]
}

// lost notes that a session of the member's is over.
func (l *leg) lost(session string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == session {
		l.up, l.session, l.again = false, "", time.Time{}
	}
}

// fails notes why the leg isn't up.
func (l *leg) fails(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.why, l.again = why, time.Now().Add(legPatience)
}

// takeOff takes a request in. Within a session its id must be free.
func (j *joint) takeOff(x *flight) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.opening != nil {
		if len(j.flights) >= maxInFlight {
			i := slices.IndexFunc(j.flights, func(x *flight) bool { return x.halted })
			if i < 0 {
				return errTooMany
			}
			j.flights = slices.Delete(j.flights, i, i+1)
		}
		if slices.ContainsFunc(j.flights, func(other *flight) bool { return other.key == x.key }) {
			return errInFlight
		}
	}
	j.flights = append(j.flights, x)
	j.past = slices.DeleteFunc(j.past, func(p landed) bool { return p.key == x.key }) // of another request now
	return nil
}

// land takes a request out.
func (j *joint) land(x *flight) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !x.halted {
		j.flights = slices.DeleteFunc(j.flights, func(other *flight) bool { return other == x })
	}
}

// sent notes that a member gets a request.
func (j *joint) sent(x *flight, l *leg) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if x.to == nil {
		x.to = make(map[string]bool)
	}
	x.to[l.Name] = true
}

// halt notes that the answer to a request may come elsewhere, or never.
func (j *joint) halt(x *flight) {
	j.mu.Lock()
	defer j.mu.Unlock()
	x.halted = true
}

// answered notes that the answer to a request may come again.
func (j *joint) answered(l *leg, key string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.past) == maxInFlight {
		j.past = slices.Delete(j.past, 0, 1)
	}
	j.past = append(j.past, landed{key, l.Name})
}

// answers reports whether a member's answer in a stream that was taken up is to
// a request that it got, and nobody waits for elsewhere.
func (j *joint) answers(l *leg, key string) bool {
	j.mu.Lock()
	i := slices.IndexFunc(j.flights, func(x *flight) bool { return x.key == key && x.halted && x.to[l.Name] })
	if i < 0 {
		defer j.mu.Unlock()
		return slices.Contains(j.past, landed{key, l.Name})
	}
	j.flights = slices.Delete(j.flights, i, i+1)
	j.mu.Unlock()
	j.answered(l, key)
	return true
}

// cancelled takes out a halted request that is cancelled.
func (j *joint) cancelled(key string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.flights = slices.DeleteFunc(j.flights, func(x *flight) bool { return x.key == key && x.halted })
}

// gotBy are the legs that a request in flight went to.
func (j *joint) gotBy(key string) (list []*leg) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, x := range j.flights {
		for _, l := range j.legs {
			if x.key == key && x.to[l.Name] {
				list = append(list, l)
			}
		}
	}
	return list
}

// expects reports whether a member may tell of progress under a token: that of
// no request that another member got.
func (j *joint) expects(l *leg, token string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.ContainsFunc(j.flights, func(x *flight) bool { return x.token == token && x.to[l.Name] })
}

// joints are all of a listener's.
type joints struct {
	mu sync.Mutex
	m  map[jointKey]*joint
}

const (
	maxJoints   = 4096
	legPatience = 10 * time.Second // until a member that failed is tried again without being asked for
)

// find returns a joint with one more request in it; nil is none. One for requests
// that stand for themselves is made when it is needed.
func (c *joints) find(key jointKey, e *Endpoint, idle time.Duration) *joint {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := c.m[key]
	switch {
	case j != nil && j.whole(e):
	case key.id != "":
		return nil
	default:
		j = newJoint(key, e)
		if !c.add(j, idle) {
			return nil
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.used = time.Now()
	j.running++
	return j
}

// put takes in a joint that has begun with a request.
func (c *joints) put(j *joint, idle time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.add(j, idle)
}

// add takes in a joint. Those that were idle for too long go, as do the sessions
// of their members by themselves; c.mu is held.
func (c *joints) add(j *joint, idle time.Duration) bool {
	if c.m == nil {
		c.m = make(map[jointKey]*joint)
	}
	now, mine := time.Now(), 0
	var oldest *joint
	var last time.Time // that it was used
	for key, other := range c.m {
		other.mu.Lock()
		idle, since := other.running == 0 && now.Sub(other.used) > idle, other.used
		if other.running > 0 {
			since = now
		}
		other.mu.Unlock()
		switch {
		case idle:
			delete(c.m, key)
		case key.credential == j.key.credential && key.id != "":
			if mine++; now.Sub(since) >= spared && (oldest == nil || since.Before(last)) {
				oldest, last = other, since
			}
		}
	}
	if len(c.m) >= maxJoints || j.key.id != "" && mine >= maxConversations {
		if oldest == nil {
			return false
		}
		delete(c.m, oldest.key)
	}
	c.m[j.key] = j
	return true
}

func (c *joints) remove(j *joint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m[j.key] == j {
		delete(c.m, j.key)
	}
}

// leave counts one request less.
func (j *joint) leave() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.used = time.Now()
	j.running--
}
