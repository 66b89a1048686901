package kubernetes

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// info is what a request asks for, as the API server reads it.
type info struct {
	*request.RequestInfo
	query   url.Values
	unclear bool // the server may read it otherwise, or the record could not name it
}

// resolver reads paths as a server does that has the usual prefixes.
var resolver = request.RequestInfoFactory{
	APIPrefixes:          sets.NewString("api", "apis"),
	GrouplessAPIPrefixes: sets.NewString("api"),
}

// infoOf reads a request's method, path and query. The path is in its normal
// form.
func infoOf(method, path, query string) *info {
	i := &info{}
	plain, err := url.PathUnescape(path)
	if err != nil {
		plain, i.unclear = path, true
	}
	// A parameter that can't be read is no parameter, for the server as well.
	i.query, err = url.ParseQuery(query)
	i.unclear = i.unclear || err != nil
	if query != "" && (method == http.MethodGet || method == http.MethodHead) && !listable(i.query) {
		// A server that can't read them all goes by watch alone, and so does the
		// resolver; but it would tell the log what stood there.
		query, i.unclear = watches(i.query), true
	}
	i.RequestInfo, err = resolver.NewRequestInfo(&http.Request{Method: method, URL: &url.URL{Path: plain, RawQuery: query}})
	i.unclear = i.unclear || err != nil
	if !i.IsResourceRequest {
		i.unclear = i.unclear || !pathName.MatchString(plain)
		return i
	}
	if i.Resource == "" {
		i.Verb, i.unclear = "", true
	}
	for _, n := range []string{i.APIGroup, i.APIVersion, i.Resource, i.Subresource, i.Namespace, i.Name} {
		i.unclear = i.unclear || n != "" && !name.MatchString(n)
	}
	// Watching and listing are GETs. A server that reads the verb off the path
	// takes other methods for something else, or for nothing.
	if isRead(i.Verb) && method != http.MethodGet && method != http.MethodHead {
		i.Verb = ""
	}
	return i
}

// listable reports whether parameters are those of a list.
func listable(query url.Values) bool {
	var o metainternalversion.ListOptions
	return scheme.ParameterCodec.DecodeParameters(query, metav1.SchemeGroupVersion, &o) == nil
}

// watches is as much of a query as says whether it is a watch.
func watches(query url.Values) string {
	values := query["watch"]
	if len(values) == 0 || slices.Contains([]string{"false", "0"}, strings.ToLower(values[0])) {
		return ""
	}
	return "watch=1"
}

var (
	// name is what names of the API look like, and of what is on record besides
	// its position: no sentence fits in.
	name = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._:~@+=-]{0,251}[A-Za-z0-9])?$`)
	// pathName is a path beside the API of which all may be on record.
	pathName = regexp.MustCompile(`^(/[A-Za-z0-9._-]{1,63}){0,8}/?$`)
)

// group is a resource with its API group, as kubectl writes it.
func (i *info) group() string {
	if i.APIGroup == "" {
		return i.Resource
	}
	return i.Resource + "." + i.APIGroup
}

// object is the name of what a request is about: resource.group, and then as
// much as there is of /namespace, /name and /subresource. Of an object without a
// namespace that is empty.
func (i *info) object(action string) string {
	space := i.Namespace
	if i.APIGroup == "" && i.Resource == "namespaces" { // in itself, for the server
		space = ""
	}
	o := i.group()
	switch {
	case i.Name != "":
		o += "/" + space + "/" + i.Name
	case space != "":
		o += "/" + space
	}
	if i.Subresource != "" && (verbs[i.Verb] == action || action == Name+":other" || groups[i.APIGroup] == action) {
		o += "/" + i.Subresource
	}
	return o
}

// discovery are the paths at which the server says what it offers and how it is,
// and those below which it does.
var (
	discovery      = []string{"/", "/api", "/apis", "/version", "/openapi/v2", "/openapi/v3", "/healthz", "/livez", "/readyz", "/.well-known/openid-configuration", "/openid/v1/jwks"}
	discoveryBelow = []string{"/openapi/v3/", "/healthz/", "/livez/", "/readyz/"}
)

// discovers reports whether a request that is for no resource asks what the
// server offers.
func (i *info) discovers() bool {
	if i.Verb != "get" && i.Verb != "head" {
		return false
	}
	path := strings.TrimSuffix(i.Path, "/")
	if path == "" {
		path = "/"
	}
	if slices.Contains(discovery, path) || slices.ContainsFunc(discoveryBelow, func(p string) bool { return strings.HasPrefix(path, p) }) {
		return true
	}
	parts := strings.Split(path[1:], "/")
	return parts[0] == "api" && len(parts) == 2 || parts[0] == "apis" && len(parts) <= 3
}

// one is a parameter that stands there at most once, "" where it is absent.
func (i *info) one(parameter string) string {
	values := i.query[parameter]
	if len(values) > 1 {
		i.unclear = true
	}
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// flag is a parameter that is true or false. Which spellings are which is the
// server's: whatever isn't plainly false may be true.
func (i *info) flag(parameter string) bool {
	switch strings.ToLower(i.one(parameter)) {
	case "", "0", "false":
		return false
	case "1", "true":
		return true
	}
	i.unclear = true
	return true
}

// maxText bounds a parameter that policy sees and records hold, bytes.
const maxText = 256

// text is a parameter that is a short name.
func (i *info) text(parameter string) string {
	v := i.one(parameter)
	if v != "" && (len(v) > maxText || !plainText.MatchString(v)) {
		i.unclear = true
		return ""
	}
	return v
}

var plainText = regexp.MustCompile(`^[A-Za-z0-9 ._:/@+-]*$`)

// selectors are those of a list, a watch or a collection that is deleted, in the
// form in which the server writes them.
func (i *info) selectors() (label, field string) {
	if l, err := labels.Parse(i.one("labelSelector")); err != nil {
		i.unclear = true
	} else if label = l.String(); len(label) > maxText {
		label, i.unclear = "", true
	}
	if f, err := fields.ParseSelector(i.one("fieldSelector")); err != nil {
		i.unclear = true
	} else if field = f.String(); len(field) > maxText || !plainField.MatchString(field) {
		field, i.unclear = "", true
	}
	return label, field
}

var plainField = regexp.MustCompile(`^[A-Za-z0-9._:/@+=!,-]*$`)

// changes reports whether a request is one that a dry run makes a trial of: a
// change of an object, not of something behind it.
func (i *info) changes() bool {
	if isRead(i.Verb) || verbs[i.Verb] == "" {
		return false
	}
	switch i.Subresource {
	case "", "status", "scale", "eviction", "binding", "ephemeralcontainers", "resize", "finalize", "approval":
		return true
	}
	return false
}

// tried reports whether dryRun says that nothing shall be kept.
func tried(values []string) bool {
	return len(values) > 0 && !slices.ContainsFunc(values, func(v string) bool { return v != metav1.DryRunAll })
}
