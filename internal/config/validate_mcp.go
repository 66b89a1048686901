package config

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// validateMCP reports what is wrong with resource i as one of the protocol mcp.
func (c *Config) validateMCP(d *decoder, at string, i int) {
	r := c.Resources[i]
	m, at := r.MCP, at+".mcp"
	if r.Protocol != "mcp" {
		if d.has(at) {
			d.fail(at, "mcp is for resources of the protocol mcp", "")
		}
		return
	}
	d.hosts(at+".hosts", m.Hosts)
	d.prefix(at+".prefix", m.Prefix)
	d.prefix(at+".endpoint", m.Endpoint)
	d.pointers(at+".match", m.Match)
	c.validateCommand(d, at, r)
	if m.Accept != AcceptListed && m.Accept != AcceptAll {
		d.fail(at+".accept", "accept is listed or all", "listed: only tools whose definitions stand under tools; all: whatever the server says, which is on record")
	}
	if m.Accept == AcceptAll && len(m.Tools) > 0 {
		d.fail(at+".tools", "with accept: all no definition is compared with these", "keep one")
	}
	for name, digest := range m.Tools {
		if !toolName.MatchString(name) || !sha256Hex.MatchString(digest) {
			d.fail(at+".tools."+name, "want the name of a tool and the digest of its definition", "exhibit mcp tools prints them")
		}
	}
	if m.MessageBytes < 64<<10 || m.MessageBytes > 64<<20 {
		d.fail(at+".message_bytes", "message_bytes must lie between 64KiB and 64MiB", "")
	}
	for j, other := range c.Resources[:i] {
		o := other.MCP
		if other.Protocol == "mcp" && o.Prefix == m.Prefix && (len(m.Hosts) == 0 && len(o.Hosts) == 0 || shareOne(m.Hosts, o.Hosts)) {
			d.fail(at, fmt.Sprintf("the same requests are meant for resources[%d]", j), "give each resource hosts or a prefix of its own")
		}
	}
}

// ownMember is the name that the gateway itself has at each endpoint.
const ownMember = "exhibit"

// memberName is a name from which what stands behind it can be told: behind "__"
// a tool's name, and behind "+" a URI, of whose scheme it is a part (RFC 3986).
var memberName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// validateEndpoints reports what is wrong with servers that are to be one.
func (c *Config) validateEndpoints(d *decoder) {
	for i, e := range c.Endpoints {
		at := fmt.Sprintf("endpoints[%d]", i)
		d.hosts(at+".hosts", e.Hosts)
		d.prefix(at+".prefix", e.Prefix)
		if len(e.Members) == 0 || len(e.Members) > maxMembers {
			d.fail(at+".members", fmt.Sprintf("an endpoint has between 1 and %d members", maxMembers), "for example {files: files, search: search-prod}: the name that a resource's tools begin with, and the resource")
		}
		taken := make(map[string]string)
		for _, name := range slices.Sorted(maps.Keys(e.Members)) {
			at, resource := at+".members."+name, e.Members[name]
			switch j := slices.IndexFunc(c.Resources, func(r Resource) bool { return r.Name == resource }); {
			case name == ownMember:
				d.fail(at, ownMember+" is the gateway itself, whose tools every endpoint has", "give the resource another name here")
			case !memberName.MatchString(name):
				d.fail(at, "a member's name is 1 to 32 of a-z, 0-9 and -, beginning with a letter", "tools are NAME__TOOL and URIs NAME+URI, so the name holds no _ and no +")
			case j < 0:
				d.fail(at, fmt.Sprintf("there is no resource %q", resource), "a member is NAME: RESOURCE, the name that its tools begin with and one of resources")
			case c.Resources[j].Protocol != "mcp":
				d.fail(at, fmt.Sprintf("%s speaks %s", resource, c.Resources[j].Protocol), "members are resources of the protocol mcp")
			case taken[resource] != "":
				d.fail(at, fmt.Sprintf("%s is the member %s already", resource, taken[resource]), "keep one")
			default:
				taken[resource] = name
			}
		}
		clash := func(other string, hosts []string, prefix string) {
			if prefix == e.Prefix && (len(hosts) == 0 && len(e.Hosts) == 0 || shareOne(hosts, e.Hosts)) {
				d.fail(at, "the same requests are meant for "+other, "give the endpoint hosts or a prefix of its own")
			}
		}
		for j, r := range c.Resources {
			if r.Protocol == "mcp" {
				clash(fmt.Sprintf("resources[%d]", j), r.MCP.Hosts, r.MCP.Prefix)
			}
		}
		for j, other := range c.Endpoints[:i] {
			clash(fmt.Sprintf("endpoints[%d]", j), other.Hosts, other.Prefix)
		}
	}
}

// maxMembers bounds the servers of an endpoint.
const maxMembers = 32

var (
	toolName  = regexp.MustCompile(`^[A-Za-z0-9_./-]{1,128}$`)
	sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)
	envName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// validateCommand reports what is wrong with how a server is started.
func (c *Config) validateCommand(d *decoder, at string, r Resource) {
	m := r.MCP
	if len(m.Command) == 0 {
		for key, set := range map[string]bool{"dir": m.Dir != "", "env": len(m.Env) > 0} {
			if set {
				d.fail(at+"."+key, key+" is for a server that command starts", "")
			}
		}
		return
	}
	if d.has(strings.TrimSuffix(at, "mcp") + "upstream") {
		d.fail(at+".command", "the server is started by command or reached at upstream", "keep one")
	}
	for _, key := range []string{"endpoint", "host", "identity"} {
		if d.has(at + "." + key) {
			d.fail(at+"."+key, key+" is for a server that is reached over HTTP", "")
		}
	}
	if m.Command[0] == "" || slices.ContainsFunc(m.Command, func(s string) bool { return strings.ContainsRune(s, 0) }) {
		d.fail(at+".command", "command is a program and its arguments", "for example [/usr/local/bin/mcp-files, /srv/files]")
	}
	for name, v := range m.Env {
		set := 0
		for _, s := range []string{v.Value, v.File, v.Env} {
			if s != "" {
				set++
			}
		}
		if !envName.MatchString(name) || set > 1 {
			d.fail(at+".env."+name, "a variable has one value: value, file or env", "for example {API_KEY: {file: /etc/exhibit/api.key}}")
		}
	}
}

// validateIssuer reports an issuer that no client could ask.
func (c *Config) validateIssuer(d *decoder) {
	if c.Issuer == "" {
		return
	}
	u, err := url.Parse(c.Issuer)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.Scheme != "https" && !(u.Scheme == "http" && Local(hostPort(u))) {
		d.fail("issuer", "issuer must be an https URL without query", "for example https://gateway.example.com:8443")
	}
}
