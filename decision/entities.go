package decision

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Ids go into Cedar as values and are never spliced into its text, so that no
// name, however hostile, can be more than a name.

func agentUID(id string) cedar.EntityUID  { return uid(typeAgent, id) }
func roleUID(id string) cedar.EntityUID   { return uid(typeRole, id) }
func actionUID(id string) cedar.EntityUID { return uid(typeAction, id) }

func resourceUID(name string) cedar.EntityUID { return uid(typeResource, name) }
func objectUID(resource, object string) cedar.EntityUID {
	return uid(typeObject, resource+"/"+object)
}

func uid(kind cedar.EntityType, id string) cedar.EntityUID {
	return cedar.NewEntityUID(kind, cedar.String(id))
}

// world is the entities of one request. All ancestors of an entity are among
// its parents, so there is nothing to look up but these.
type world struct {
	principal, action, target, resource cedar.Entity
}

// Get implements cedar.EntityGetter.
func (w *world) Get(id cedar.EntityUID) (cedar.Entity, bool) {
	switch id {
	case w.principal.UID:
		return w.principal, true
	case w.action.UID:
		return w.action, true
	case w.target.UID:
		return w.target, true
	case w.resource.UID:
		return w.resource, true
	}
	return cedar.Entity{}, false
}

// agentAttributes: principal.env, principal.team (absent when unset), and
// principal.owner, the id of the person who answers for the agent.
func agentAttributes(b evidence.AgentBody) cedar.Record {
	m := cedar.RecordMap{"owner": cedar.String(b.Owner.ID)}
	if b.Env != "" {
		m["env"] = cedar.String(b.Env)
	}
	if b.Team != "" {
		m["team"] = cedar.String(b.Team)
	}
	return cedar.NewRecord(m)
}

// resourceAttributes: resource.protocol and resource.labels.
func resourceAttributes(r evidence.Resource) cedar.Record {
	labels := make(cedar.RecordMap, len(r.Labels))
	for k, v := range r.Labels {
		labels[cedar.String(k)] = cedar.String(v)
	}
	return cedar.NewRecord(cedar.RecordMap{
		"protocol": cedar.String(r.Protocol),
		"labels":   cedar.NewRecord(labels),
	})
}

// object is the entity of a thing within a resource. Beside the attributes of
// its resource it has name and, when the object's name has a dot, schema: what
// stands after and before the first one. In the names of Kubernetes' objects a
// dot says nothing of the kind.
func object(res *resourceState, name string) cedar.Entity {
	m := make(cedar.RecordMap, 4)
	for k, v := range res.entity.Attributes.All() {
		m[k] = v
	}
	schema, rest, dot := strings.Cut(name, ".")
	if dot && res.Protocol != undotted {
		m["schema"], m["name"] = cedar.String(schema), cedar.String(rest)
	} else {
		m["name"] = cedar.String(name)
	}
	return cedar.Entity{
		UID:        objectUID(res.Name, name),
		Parents:    cedar.NewEntityUIDSet(res.entity.UID),
		Attributes: cedar.NewRecord(m),
	}
}

// undotted is the protocol whose objects have a name only.
const undotted = "kubernetes"

// clockFact is the one fact that nobody states: context.time, from the time of
// the request.
const clockFact = "time"

const hourMicros = int64(time.Hour / time.Microsecond)

// clockOf is context.time: the hour of a time, 0 to 23, and its weekday, 1
// (Monday) to 7, in UTC.
func clockOf(t int64) cedar.Record {
	at := time.UnixMicro(t).UTC()
	return cedar.NewRecord(cedar.RecordMap{
		"hour":    cedar.Long(at.Hour()),
		"weekday": cedar.Long((int(at.Weekday())+6)%7 + 1),
	})
}

// nextHour is the full hour after a time: until then clockOf says the same.
func nextHour(t int64) int64 {
	past := t % hourMicros
	if past < 0 {
		past += hourMicros
	}
	return t - past + hourMicros
}

// contextOf flattens the facts of session and command, and adds the clock where
// the policy looks at it. Neither may override another: a fact in two of them is
// an error. Of several errors it returns the least, since facts have no order
// and reasons are recorded.
func contextOf(q *Request, timed bool) (cedar.Record, error) {
	m := make(cedar.RecordMap, len(q.Session)+len(q.Command)+1)
	if timed {
		m[clockFact] = clockOf(q.Time)
	}
	var least error
	for _, facts := range [2]evidence.Facts{q.Session, q.Command} {
		for k, v := range facts {
			value, err := factValue(v)
			switch _, twice := m[cedar.String(k)]; {
			case !utf8.ValidString(k):
				err = errNotUTF8
			case twice && k == clockFact:
				err = errors.New("it is the clock's")
			case twice:
				err = errors.New("session and command both state it")
			}
			m[cedar.String(k)] = value
			if err == nil {
				continue
			}
			if err = fmt.Errorf("fact %q: %w", k, err); least == nil || err.Error() < least.Error() {
				least = err
			}
		}
	}
	if least != nil {
		return cedar.Record{}, least
	}
	return cedar.NewRecord(m), nil
}

// factValue converts a fact. What JSON could not carry unchanged is refused: a
// decision on it would not replay from its record.
func factValue(v any) (cedar.Value, error) {
	switch v := v.(type) {
	case bool:
		return cedar.Boolean(v), nil
	case int64:
		return cedar.Long(v), nil
	case string:
		if !utf8.ValidString(v) {
			return nil, errNotUTF8
		}
		return cedar.String(v), nil
	case []string:
		set := make([]cedar.Value, len(v))
		for i, s := range v {
			if !utf8.ValidString(s) {
				return nil, errNotUTF8
			}
			set[i] = cedar.String(s)
		}
		return cedar.NewSet(set...), nil
	}
	return nil, fmt.Errorf("%T is not a bool, string, int64 or list of strings", v)
}

var errNotUTF8 = errors.New("it is not UTF-8")
