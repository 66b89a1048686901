package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// Clusters explain how requests to the resources in force are understood.
type Clusters func() []Resource

// Explain says how a request to a resource is understood (see Understand).
func (c Clusters) Explain(_ context.Context, resource, text string) (*evidence.Shape, error) {
	for _, r := range c() {
		if r.Resource == resource {
			return Understand(text)
		}
	}
	return nil, fmt.Errorf("%w: %s", errors.ErrUnsupported, resource)
}

// Understand returns the shape of a request, written as a method, a path with
// its query, and behind a space a JSON content if there is one: for explaining.
func Understand(text string) (*evidence.Shape, error) {
	method, rest, ok := strings.Cut(strings.TrimSpace(text), " ")
	target, content, _ := strings.Cut(strings.TrimSpace(rest), " ")
	if !ok || target == "" || target[0] != '/' {
		return nil, fmt.Errorf("%q is not a request: want METHOD /path[?query] [JSON], for example GET /api/v1/namespaces/default/pods/web (kubectl -v 6 shows them)", text)
	}
	path, query, _ := strings.Cut(target, "?")
	path, err := httpgate.NormalPath(path)
	if err != nil {
		return nil, err
	}
	a := asked{method: strings.ToUpper(method), path: path, query: query, content: []byte(content)}
	if content != "" {
		a.media = mediaJSON
		if a.method == http.MethodPatch {
			a.media = "application/strategic-merge-patch+json"
		}
	}
	return understand(&a).Shape, nil
}
