package mcp

import "github.com/exhibit-gateway/exhibit/evidence"

// Name is the protocol's.
const Name = "mcp"

// Actions are the actions of MCP and the classes they stand in. What a server
// asks of an agent is admin: no role of reading or writing allows it by itself.
var Actions = map[string][]string{
	Name + ":connect": {"connect"},

	Name + ":initialize": {"session"}, // and server/discover
	Name + ":ping":       {"session"},
	Name + ":notify":     {"session"}, // notifications of the agent's
	Name + ":listen":     {"session"}, // the server's stream of messages
	Name + ":close":      {"session"},
	Name + ":set_level":  {"session"},

	Name + ":list":          {"read"}, // of tools, prompts, resources and templates
	Name + ":read_resource": {"read"},
	Name + ":subscribe":     {"read"},
	Name + ":get_prompt":    {"read"},
	Name + ":complete":      {"read"},
	Name + ":get_task":      {"read"},
	Name + ":call_read":     {"read"}, // a call of a tool that only reads, as its accepted definition says

	Name + ":call":        {"write"},
	Name + ":cancel_task": {"write"},

	Name + ":sampling":    {"admin"}, // the server asks the agent's model
	Name + ":elicitation": {"admin"}, // the server asks the agent's user
	Name + ":roots":       {"admin"}, // the server asks for the agent's folders

	Name + ":opaque":    {"opaque"}, // a method that none of the above is
	Name + ":held":      {"opaque"}, // a tool that nobody has accepted; never passed on
	Name + ":malformed": {"opaque"}, // never passed on
}

// Facts are those that a message may state, with their Cedar types, beside what
// the pointers of a resource's match find.
var Facts = map[string]string{"method": "String", "held": "String"}

// strength orders the classes, weakest first.
var strength = map[string]int{
	evidence.VerbSession: 1, evidence.VerbConnect: 2, evidence.VerbRead: 3,
	evidence.VerbWrite: 4, evidence.VerbAdmin: 5, evidence.VerbOpaque: 6,
}

// classOf is the strongest class of checks.
func classOf(checks []evidence.Check) string {
	class := evidence.VerbSession
	for _, c := range checks {
		if k := Actions[c.Action][0]; strength[k] > strength[class] {
			class = k
		}
	}
	return class
}

// methods are the actions of what agents ask, by method. Those of tools, prompts
// and resources name an object, too.
var methods = map[string]string{
	"initialize": Name + ":initialize", "server/discover": Name + ":initialize", "ping": Name + ":ping",
	"subscriptions/listen": Name + ":listen", "logging/setLevel": Name + ":set_level",

	"tools/list": Name + ":list", "prompts/list": Name + ":list", "resources/list": Name + ":list", "resources/templates/list": Name + ":list",
	"resources/read": Name + ":read_resource", "resources/subscribe": Name + ":subscribe", "resources/unsubscribe": Name + ":subscribe",
	"prompts/get": Name + ":get_prompt", "completion/complete": Name + ":complete",
	"tasks/get": Name + ":get_task", "tasks/list": Name + ":get_task", "tasks/result": Name + ":get_task", "tasks/cancel": Name + ":cancel_task",

	"tools/call": Name + ":call",

	"notifications/initialized": Name + ":notify", "notifications/cancelled": Name + ":notify", "notifications/progress": Name + ":notify",
	"notifications/roots/list_changed": Name + ":notify",
}

// asks are the actions of what servers ask, by method.
var asks = map[string]string{
	"sampling/createMessage": Name + ":sampling", "elicitation/create": Name + ":elicitation", "roots/list": Name + ":roots",
	"ping": Name + ":ping",
}
