package http

import "github.com/exhibit-gateway/exhibit/evidence"

// Name is the protocol's.
const Name = "http"

// Actions are the actions of HTTP and the classes they stand in. Methods that
// RFC 9110 section 9.2.1 calls safe are reads; a gRPC call is a write, since its
// name says nothing of what it does.
var Actions = map[string][]string{
	Name + ":connect": {"connect"},

	Name + ":get": {"read"}, Name + ":head": {"read"}, Name + ":options": {"read"}, Name + ":query": {"read"},
	Name + ":grpc_info": {"read"}, // health checks and reflection

	Name + ":post": {"write"}, Name + ":put": {"write"}, Name + ":patch": {"write"}, Name + ":delete": {"write"},
	Name + ":grpc": {"write"},

	Name + ":other":     {"opaque"}, // a method that none of the above is
	Name + ":opaque":    {"opaque"}, // a path that no route names, besides its method
	Name + ":websocket": {"opaque"}, // what flows in it isn't understood
	Name + ":malformed": {"opaque"}, // never passed on
}

// Facts are those that a request may state, with their Cedar types, beside what
// the pointers of a resource's match find.
var Facts = map[string]string{
	"method": "String", "route": "String", "operation": "String", "content_type": "String",
	"query": "Set<String>", "stripped": "Set<String>",
}

// strength orders the classes, weakest first.
var strength = map[string]int{
	evidence.VerbRead: 1, evidence.VerbWrite: 2, evidence.VerbOpaque: 3,
}

// classOf is the strongest class of checks.
func classOf(checks []evidence.Check) string {
	class := evidence.VerbRead
	for _, c := range checks {
		if k := Actions[c.Action][0]; strength[k] > strength[class] {
			class = k
		}
	}
	return class
}

// methods are the actions of methods.
var methods = map[string]string{
	"GET": Name + ":get", "HEAD": Name + ":head", "OPTIONS": Name + ":options", "QUERY": Name + ":query",
	"POST": Name + ":post", "PUT": Name + ":put", "PATCH": Name + ":patch", "DELETE": Name + ":delete",
}

func actionOf(method string) string {
	if a := methods[method]; a != "" {
		return a
	}
	return Name + ":other"
}
