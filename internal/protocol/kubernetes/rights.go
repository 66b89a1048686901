package kubernetes

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Account asks clusters as the gateway itself, for nobody: who it is there, and
// who may do what.
type Account struct {
	Clusters Clusters
	Upstream func(resource string) (protocol.Upstream, error)
	// Own records a request that is the gateway's own, before it is sent, and
	// returns the position by which the cluster's audit log has it.
	Own func(ctx context.Context, resource string, b evidence.OwnUpstreamBody) (position string, err error)
}

const (
	rightsTimeout = time.Minute
	rightsPage    = "500"
	maxRightsRead = 64 << 20 // bytes of all answers
	maxAnswer     = 16 << 20 // of one
)

// rbacKinds are the kinds of which RBAC consists, and what they are as items.
var rbacKinds = []struct{ resource, kind string }{
	{"clusterroles", "ClusterRole"}, {"roles", "Role"}, {"clusterrolebindings", "ClusterRoleBinding"}, {"rolebindings", "RoleBinding"},
}

// Rights returns who the gateway is in a resource's cluster, and the cluster's
// roles and bindings as one List in JSON.
func (a Account) Rights(ctx context.Context, resource string) (account string, list []byte, query string, err error) {
	ctx, cancel := context.WithTimeout(ctx, rightsTimeout)
	defer cancel()
	var who struct {
		Status struct {
			User struct {
				Username string `json:"username"`
			} `json:"userInfo"`
		} `json:"status"`
	}
	review := `{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}`
	if err := a.ask(ctx, resource, "create selfsubjectreviews.authentication.k8s.io", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review, &who); err != nil {
		return "", nil, "", fmt.Errorf("finding out who the gateway is there: %w", err)
	}
	all := struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}{Kind: "List"}
	var asked []string
	read := 0
	for _, k := range rbacKinds {
		path := "/apis/rbac.authorization.k8s.io/v1/" + k.resource
		asked = append(asked, "GET "+path)
		for next := ""; ; {
			var page struct {
				Metadata struct {
					Continue string `json:"continue"`
				} `json:"metadata"`
				Items []json.RawMessage `json:"items"`
			}
			q := url.Values{"limit": {rightsPage}}
			if next != "" {
				q.Set("continue", next)
			}
			if err := a.ask(ctx, resource, "list "+k.resource+".rbac.authorization.k8s.io", path+"?"+q.Encode(), "", &page); err != nil {
				return "", nil, "", fmt.Errorf("reading %s: %w", k.resource, err)
			}
			for _, item := range page.Items {
				read += len(item)
				all.Items = append(all.Items, json.RawMessage(`{"kind":"`+k.kind+`",`+strings.TrimPrefix(strings.TrimSpace(string(item)), "{")))
			}
			if read > maxRightsRead {
				return "", nil, "", fmt.Errorf("the cluster has more than %d bytes of roles and bindings", maxRightsRead)
			}
			if next = page.Metadata.Continue; next == "" {
				break
			}
		}
	}
	list, err = json.Marshal(all)
	return who.Status.User.Username, list, strings.Join(asked, "; "), err
}

// ask sends one request, on a connection of its own, and decodes the answer.
func (a Account) ask(ctx context.Context, resource, text, target, content string, into any) error {
	up, err := a.Upstream(resource)
	if err != nil {
		return err
	}
	conn, err := dial(ctx, up)
	if err != nil {
		return fmt.Errorf("connecting to the upstream: %w", err)
	}
	defer conn.Close()
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if content != "" {
		method, body = http.MethodPost, strings.NewReader(content)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+up.Address+target, body) // on a connection that has its TLS
	if err != nil {
		return err
	}
	for _, c := range a.Clusters() {
		if c.Resource == resource && c.Host != "" {
			r.Host = c.Host
		}
	}
	r.Header.Set("Accept", mediaJSON)
	if content != "" {
		r.Header.Set("Content-Type", mediaJSON)
	}
	if up.Header != nil {
		name, value, err := up.Header(ctx)
		if err != nil {
			return err
		}
		r.Header.Set(name, value)
	}
	id, err := a.Own(ctx, resource, evidence.OwnUpstreamBody{Purpose: "rights", Local: conn.LocalAddr().String(), Remote: conn.RemoteAddr().String(), Text: text})
	if err != nil {
		return fmt.Errorf("recording a request of the gateway's own: %w", err)
	}
	r.Header.Set("Audit-ID", id)
	once := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	resp, err := once.RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return err
	case len(b) > maxAnswer:
		return fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	case resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("the gateway's account may not %s: let it, or bring the roles in a file", text)
	case resp.StatusCode/100 != 2:
		return errors.New(resp.Status)
	}
	return json.Unmarshal(b, into)
}

// dial connects to an API server.
func dial(ctx context.Context, up protocol.Upstream) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", up.Address)
	if err != nil || up.TLS == nil {
		return c, err
	}
	t := tls.Client(c, up.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return t, nil
}
