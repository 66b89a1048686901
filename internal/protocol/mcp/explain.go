package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Explain says how a message to a resource is understood, written as an agent
// would tell it to somebody: a method, what it names, and behind it the
// arguments of a call. Tools are those that the server was last seen to list;
// of prompts and resources it is believed that there are such.
func (d *Definitions) Explain(_ context.Context, resource, asked string) (*evidence.Shape, error) {
	for _, r := range d.cfg.Resources() {
		if r.Resource == resource {
			return d.understand(&r, asked)
		}
	}
	return nil, fmt.Errorf("%w: %s", errors.ErrUnsupported, resource)
}

func (d *Definitions) understand(res *Resource, asked string) (*evidence.Shape, error) {
	method, rest, _ := strings.Cut(strings.TrimSpace(asked), " ")
	name, arguments, _ := strings.Cut(strings.TrimSpace(rest), " ")
	if arguments = strings.TrimSpace(arguments); arguments == "" {
		arguments = "{}"
	}
	if method == "" || !json.Valid([]byte(arguments)) {
		return nil, fmt.Errorf("%q is not a message: want METHOD [NAME or URI] [JSON arguments], for example tools/call read_file {\"path\":\"a\"}", asked)
	}
	params := map[string]any{"arguments": json.RawMessage(arguments)}
	if key := namedBy[method]; key != "" {
		params[key] = name
	}
	m, err := parse(encode(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
	if err != nil {
		return nil, err
	}
	c := newConversation("")
	c.known.prompts, c.known.resources = map[string]bool{name: true}, map[string]bool{name: true}
	c.known.tools = d.known(res.Resource)
	u, err := new(shapes).understand(res, c, m)
	return u.shape, err
}

// known are the tools that a server was last seen to list.
func (d *Definitions) known(resource string) map[string]*Tool {
	d.mu.Lock()
	c := d.of[resource]
	d.mu.Unlock()
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.tools)
}
