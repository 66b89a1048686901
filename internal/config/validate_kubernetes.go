package config

import (
	"fmt"
	"regexp"
	"strings"
)

// completeKubernetes fills in the defaults of a resource of the protocol
// kubernetes.
func completeKubernetes(d *decoder, at string, r *Resource) {
	if r.Protocol != "kubernetes" {
		return
	}
	if !d.has(at + ".user_prefix") {
		r.Kubernetes.UserPrefix = "exhibit:"
	}
	if !d.has(at + ".groups") {
		r.Kubernetes.Groups = []string{"exhibit:agents"}
	}
	if r.Reconcile.Log != "" && r.Reconcile.Format == "" {
		r.Reconcile.Format = LogAudit
	}
}

// account is what users and groups of a cluster may be called: what stands in a
// field of a request as it is.
var account = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,126}$`)

// validateKubernetes reports what is wrong with resource i as a cluster.
func (c *Config) validateKubernetes(d *decoder, at string, i int) {
	r := c.Resources[i]
	k, upstream := r.Kubernetes, at+".upstream"
	at += ".kubernetes"
	if r.Protocol != "kubernetes" {
		if d.has(upstream + ".kubeconfig") {
			d.fail(upstream+".kubeconfig", "kubeconfig is for resources of the protocol kubernetes", "")
		}
		if d.has(at) {
			d.fail(at, "kubernetes is for resources of the protocol kubernetes", "")
		}
		return
	}
	d.hosts(at+".hosts", k.Hosts)
	d.prefix(at+".prefix", k.Prefix)
	if r.Upstream.User != "" || !r.Upstream.Password.IsZero() {
		d.fail(upstream, "API servers know no passwords", "use header: {name: Authorization, prefix: 'Bearer ', value: {file: FILE}} with a service account's token, or tls: {cert: FILE, key: FILE}")
	}
	for _, key := range []string{"address", "tls", "header", "oauth"} {
		if r.Upstream.Kubeconfig != "" && d.has(upstream+"."+key) {
			d.fail(upstream+"."+key, key+" stands in the kubeconfig already", "keep one")
		}
	}
	if r.Upstream.Context != "" && r.Upstream.Kubeconfig == "" {
		d.fail(upstream+".context", "context is one of a kubeconfig", "name the file: kubeconfig: FILE")
	}
	const own = "the cluster's own users and groups are not an agent's: user_prefix keeps agents apart from them"
	if !account.MatchString(k.UserPrefix) || strings.HasPrefix(k.UserPrefix, "system:") {
		d.fail(at+".user_prefix", "user_prefix is a short text that does not begin with system:", own+", for example exhibit:")
	}
	for j, g := range k.Groups {
		if !account.MatchString(g) || strings.HasPrefix(g, "system:") {
			d.fail(fmt.Sprintf("%s.groups[%d]", at, j), "a group is a short text that does not begin with system:", own+", for example exhibit:agents")
		}
	}
	if k.Account != "" && len(k.Account) > 256 {
		d.fail(at+".account", "account is the name of a user, and longer than any", "as kubectl auth whoami says, for example system:serviceaccount:exhibit:exhibit")
	}
	if r.Reconcile.Log != "" && k.Account == "" {
		d.fail(at+".account", "it isn't said who the gateway is at the cluster: its requests can't be told from others' in the audit log", "as kubectl auth whoami says, for example system:serviceaccount:exhibit:exhibit")
	}
	for j, u := range k.Unlogged {
		at := fmt.Sprintf("%s.unlogged[%d]", at, j)
		if u.Verb == "" && u.Resource == "" {
			d.fail(at, "it says neither which verb nor which resource", "nothing would be missed in the audit log")
		}
		d.required(at+".reason", u.Reason, "reason: the audit policy has level None for events")
	}
	for j, other := range c.Resources[:i] {
		o := other.Kubernetes
		if other.Protocol == r.Protocol && o.Prefix == k.Prefix && (len(k.Hosts) == 0 && len(o.Hosts) == 0 || shareOne(k.Hosts, o.Hosts)) {
			d.fail(at, fmt.Sprintf("the same requests are meant for resources[%d]", j), "give each cluster hosts or a prefix of its own")
		}
	}
}
