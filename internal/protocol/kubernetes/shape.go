package kubernetes

import (
	"strings"
	"sync"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// asked is what a request's shape depends on.
type asked struct {
	method, path, query string
	stripped            string // names of fields, joined
	media               string // of the content, "" without one
	content             []byte
}

// command is a request's shape, with the action that says how it is passed on.
type command struct {
	*evidence.Shape
	action string
	secret bool // the content may be a Secret
}

// understand makes the shape of what is asked.
func understand(a *asked) command {
	i := infoOf(a.method, a.path, a.query)
	s := &evidence.Shape{Path: "http", Parse: evidence.ParseFull, Facts: make(evidence.Facts)}
	if a.media != "" {
		s.Facts["content_type"] = a.media
	}
	if a.stripped != "" {
		s.Facts["stripped"] = strings.Split(a.stripped, " ")
	}
	if !i.IsResourceRequest {
		return i.beside(s)
	}
	return i.resource(s, a)
}

// beside is the shape of a request for a path that is no resource.
func (i *info) beside(s *evidence.Shape) command {
	action, object := Name+":nonresource", ""
	if i.discovers() {
		action = Name + ":discover"
	}
	if _, known := methodVerbs[i.Verb]; !known {
		i.Verb, i.unclear = "other", true
	}
	s.Facts["verb"] = i.Verb
	if !i.unclear {
		object = i.Path
		s.Text = i.Verb + " " + i.Path
	}
	return i.decided(s, []string{action}, object)
}

// methodVerbs are the verbs of what is no resource.
var methodVerbs = map[string]bool{"get": true, "head": true, "post": true, "put": true, "patch": true, "delete": true}

// resource is the shape of a request for a resource.
func (i *info) resource(s *evidence.Shape, a *asked) command {
	f := s.Facts
	set := func(fact, v string) {
		if v != "" {
			f[fact] = v
		}
	}
	actions := actionsOf(i)
	dry := false
	if len(a.content) > 0 && !deletes(i.Verb) {
		kind, generated := i.about(a.media, a.content)
		set("kind", kind)
		if generated {
			f["generate_name"] = true
		}
	}
	switch {
	case deletes(i.Verb):
		var propagation string
		propagation, dry = i.deleting(a.media, a.content)
		set("propagation", propagation)
	case verbs[i.Verb] != "":
		dry = tried(i.query["dryRun"])
	}
	if dry && i.changes() {
		f["dry_run"] = true
	}
	if !isRead(i.Verb) {
		set("field_manager", i.text("fieldManager"))
		if i.Verb == "patch" && i.flag("force") {
			f["force"] = true
		}
	}
	var label, field string
	if i.Verb == "list" || i.Verb == "watch" || i.Verb == "deletecollection" {
		label, field = i.selectors()
		set("label_selector", label)
		set("field_selector", field)
	}
	switch actions[0] {
	case Name + ":exec", Name + ":attach":
		s.Parse = evidence.ParsePartial // what flows in it is the container's
		f["stdin"], f["tty"] = i.flag("stdin"), i.flag("tty")
		set("container", i.text("container"))
	case Name + ":log":
		set("container", i.text("container"))
	}
	for fact, v := range map[string]string{
		"group": i.APIGroup, "version": i.APIVersion, "resource": i.Resource, "subresource": i.Subresource,
		"namespace": i.Namespace, "name": i.Name,
	} {
		if v == "" || name.MatchString(v) {
			set(fact, v)
			continue
		}
		// It may be anything, and stands nowhere but in what is sealed.
		i.unclear = true
		f["verb"] = verbOf(i.Verb)
		return i.decided(s, actions, "")
	}
	f["verb"] = verbOf(i.Verb)
	object := i.object(actions[0])
	if object == "" {
		return i.decided(s, actions, "")
	}
	s.Text = i.said(actions[0]) + " " + object
	for _, p := range []struct{ name, value string }{{"labelSelector", label}, {"fieldSelector", field}} {
		if p.value != "" {
			s.Text += " " + p.name + "=" + p.value
		}
	}
	if f["dry_run"] == true {
		s.Text += " dryRun=All"
	}
	return i.decided(s, actions, object)
}

func deletes(verb string) bool { return verb == "delete" || verb == "deletecollection" }

// verbOf is the verb as policy sees it.
func verbOf(verb string) string {
	if verbs[verb] == "" && verb != "proxy" {
		return "other"
	}
	return verb
}

// said is what a request does, in a word.
func (i *info) said(action string) string {
	if subresources[""][i.Subresource] == action || subresources[i.APIGroup+"/"+i.Resource][i.Subresource] == action {
		return strings.TrimPrefix(action, Name+":")
	}
	return verbOf(i.Verb)
}

// decided ends a shape with what is to be decided.
func (i *info) decided(s *evidence.Shape, actions []string, object string) command {
	c := command{Shape: s, action: actions[0], secret: i.APIGroup == "" && i.Resource == "secrets"}
	if i.unclear {
		actions = append(actions, Name+":opaque")
	}
	for _, action := range actions {
		s.Checks = append(s.Checks, evidence.Check{Action: action, Object: object})
	}
	if s.Verb = classOf(s.Checks); s.Verb == evidence.VerbOpaque {
		s.Parse = evidence.ParseOpaque
	}
	return c
}

// commands keeps what was understood, so that equal requests share a shape.
type commands struct {
	mu sync.Mutex
	m  map[string]command
}

// maxKept and maxKey bound what is kept; who asks more different things starts
// over.
const (
	maxKept = 4096
	maxKey  = 1024
)

// of understands what is asked.
func (k *commands) of(a *asked) command {
	size := len(a.path) + len(a.query) + len(a.stripped)
	if len(a.content) > 0 || size > maxKey {
		return understand(a)
	}
	key := strings.Join([]string{a.method, a.path, a.query, a.stripped, a.media}, "\x00")
	k.mu.Lock()
	c, known := k.m[key]
	k.mu.Unlock()
	if known {
		return c
	}
	c = understand(a)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.m == nil || len(k.m) >= maxKept {
		k.m = make(map[string]command)
	}
	k.m[key] = c
	return c
}
