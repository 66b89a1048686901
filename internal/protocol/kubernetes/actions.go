package kubernetes

import "github.com/exhibit-gateway/exhibit/evidence"

// Name is the protocol's.
const Name = "kubernetes"

// Actions are the actions of Kubernetes and the classes they stand in. Those of
// the API's own verbs are reads and writes; what gives its caller more than the
// verb says is an action of its own, in the place of the verb's.
var Actions = map[string][]string{
	Name + ":connect": {"connect"},

	Name + ":discover": {"session"}, // what the server offers: kinds, versions, health
	Name + ":review":   {"session"}, // what one may do oneself

	Name + ":get": {"read"}, Name + ":list": {"read"}, Name + ":watch": {"read"},
	Name + ":log": {"read"}, // of containers

	Name + ":create": {"write"}, Name + ":update": {"write"}, Name + ":patch": {"write"},
	Name + ":delete": {"write"}, Name + ":deletecollection": {"write"},

	Name + ":secret_read":  {"admin"}, // whatever answers with the values of Secrets
	Name + ":secret_write": {"admin"},
	Name + ":token":        {"admin"}, // of a service account
	Name + ":certificate":  {"admin"}, // certificates.k8s.io: of anybody
	Name + ":exec":         {"admin"},
	Name + ":attach":       {"admin"},
	Name + ":debug":        {"admin"}, // ephemeral containers
	Name + ":evict":        {"admin"},
	Name + ":bind":         {"admin"}, // pods to nodes
	Name + ":rbac":         {"admin"}, // who may do what in the cluster
	Name + ":crd":          {"admin"}, // the API itself; likewise the next two
	Name + ":apiservice":   {"admin"},
	Name + ":admission":    {"admin"}, // webhooks and policies that see or change all requests
	Name + ":nonresource":  {"admin"}, // paths beside the API, such as /metrics and /debug

	Name + ":portforward": {"opaque"}, // what flows in it isn't understood
	Name + ":proxy":       {"opaque"}, // requests to whatever a pod, service or node serves
	Name + ":opaque":      {"opaque"}, // a name, parameter or content that isn't understood, besides its verb
	Name + ":other":       {"opaque"}, // a method that isn't the API's
	Name + ":impersonate": {"opaque"}, // never passed on: it is the gateway that says for whom it asks
	Name + ":upgrade":     {"opaque"}, // never passed on: another protocol where none belongs
	Name + ":malformed":   {"opaque"}, // never passed on
}

// Facts are those that a request may state, with their Cedar types. What is not
// in a request is not stated.
var Facts = map[string]string{
	"verb": "String", "group": "String", "version": "String", "resource": "String", "subresource": "String",
	"namespace": "String", "name": "String", "kind": "String",
	"dry_run": "Bool", "force": "Bool", "field_manager": "String", "propagation": "String",
	"label_selector": "String", "field_selector": "String",
	"container": "String", "stdin": "Bool", "tty": "Bool",
	"generate_name": "Bool", "content_type": "String", "stripped": "Set<String>",
}

// strength orders the classes, weakest first.
var strength = map[string]int{
	evidence.VerbSession: 1, evidence.VerbRead: 2, evidence.VerbWrite: 3, evidence.VerbAdmin: 4, evidence.VerbOpaque: 5,
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

// verbs are the actions of the API's verbs.
var verbs = map[string]string{
	"get": Name + ":get", "list": Name + ":list", "watch": Name + ":watch",
	"create": Name + ":create", "update": Name + ":update", "patch": Name + ":patch",
	"delete": Name + ":delete", "deletecollection": Name + ":deletecollection",
}

// isRead reports whether a verb of the API changes nothing.
func isRead(verb string) bool { return verb == "get" || verb == "list" || verb == "watch" }

// subresources are those that are actions of their own, by group and resource;
// those of any resource stand under "".
var subresources = map[string]map[string]string{
	"": {"proxy": Name + ":proxy", "exec": Name + ":exec", "attach": Name + ":attach", "portforward": Name + ":portforward"},
	"/pods": {
		"log": Name + ":log", "ephemeralcontainers": Name + ":debug",
		"eviction": Name + ":evict", "binding": Name + ":bind",
	},
	"/serviceaccounts": {"token": Name + ":token"},
}

// groups are the API groups whose changes are actions of their own.
var groups = map[string]string{
	"rbac.authorization.k8s.io":    Name + ":rbac",
	"apiextensions.k8s.io":         Name + ":crd",
	"apiregistration.k8s.io":       Name + ":apiservice",
	"admissionregistration.k8s.io": Name + ":admission",
	"certificates.k8s.io":          Name + ":certificate",
}

// reviews are what agents ask of themselves, by group and resource.
var reviews = map[string]bool{
	"authorization.k8s.io/selfsubjectaccessreviews": true, "authorization.k8s.io/selfsubjectrulesreviews": true,
	"authentication.k8s.io/selfsubjectreviews": true,
}

// actionsOf are the actions of a request for a resource.
func actionsOf(i *info) []string {
	of := i.APIGroup + "/" + i.Resource
	switch {
	case i.Verb == "proxy":
		return []string{Name + ":proxy"}
	case i.Subresource != "":
		if action := subresources[of][i.Subresource]; action != "" && (action != Name+":log" || i.Verb == "get") {
			return special(i, action)
		}
		if action := subresources[""][i.Subresource]; action != "" {
			return []string{action}
		}
	case of == "/secrets":
		switch i.Verb {
		case "get", "list", "watch":
			return []string{Name + ":secret_read"}
		case "create", "update":
			return []string{Name + ":secret_write"}
		}
		// A patch answers with all of the Secret, as deletions can.
		return []string{Name + ":secret_read", Name + ":secret_write"}
	case of == "/bindings":
		return special(i, Name+":bind")
	case reviews[of] && i.Verb == "create":
		return []string{Name + ":review"}
	}
	if action := groups[i.APIGroup]; action != "" {
		return special(i, action)
	}
	if action := verbs[i.Verb]; action != "" {
		return []string{action}
	}
	return []string{Name + ":other"}
}

// special is the action of a change, where reading is as anywhere else.
func special(i *info, action string) []string {
	if isRead(i.Verb) && Actions[action][0] != evidence.VerbRead {
		return []string{verbs[i.Verb]}
	}
	return []string{action}
}
