package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/exhibit-gateway/exhibit/decision"
	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/policy"
	"github.com/exhibit-gateway/exhibit/internal/recorder"
	"github.com/exhibit-gateway/exhibit/internal/seal"
)

// putInForce records the configuration and the policy of s where they differ
// from what is in force, both or neither, and then routes by them.
func (g *Gateway) putInForce(ctx context.Context, s Settings, by evidence.By) error {
	drafts, err := g.changes(s, by)
	if err != nil {
		return fmt.Errorf("putting configuration and policy in force: %w", err)
	}
	if len(drafts) > 0 {
		if err := g.recorder.Control(ctx, drafts...); err != nil {
			return fmt.Errorf("putting configuration and policy in force: %w", err)
		}
	}
	resources := make(map[string]Resource, len(s.Resources))
	for _, r := range s.Resources {
		resources[r.Name] = r
	}
	g.live.Store(&s)
	g.resources.Store(&resources)
	if s.InForce != nil {
		s.InForce()
	}
	return nil
}

// changes are the control records that turn what is in force into s.
func (g *Gateway) changes(s Settings, by evidence.By) (drafts []*evidence.Draft, err error) {
	registry := g.recorder.State().Registry
	if !sameConfig(s.Config, registry.ConfigBody()) {
		b := s.Config
		b.Before, b.By = registry.Config(), by
		b.Diff = configDiff(registry.ConfigBody(), b)
		drafts = append(drafts, &evidence.Draft{Head: evidence.Head{Type: evidence.ConfigChange}, Body: evidence.EncodeBody(b)})
	}
	if b, _ := standing(registry, &s); b.Digest != registry.Policy() {
		before, _ := registry.Bundle()
		b.Before, b.By = registry.Policy(), by
		b.Diff = policy.Diff(before, b)
		draft, err := g.policyChange(&b)
		if err != nil {
			return nil, err
		}
		drafts = append(drafts, draft)
	}
	return drafts, nil
}

const configFile = "exhibit.yaml"

// configDiff is what changed between two configurations, as a unified diff.
func configDiff(before, after evidence.ConfigBody) string {
	bundle := func(b evidence.ConfigBody) (p evidence.PolicyBody) {
		if b.Digest != "" {
			p.Files = []evidence.File{{Name: configFile, Text: b.Text}}
		}
		return p
	}
	return policy.Diff(bundle(before), bundle(after))
}

// Config implements api.Control.
func (g *Gateway) Config(context.Context) (api.Document, error) {
	b := g.recorder.State().Registry.ConfigBody()
	return api.Document{Digest: b.Digest, Files: []evidence.File{{Name: configFile, Text: b.Text}}}, nil
}

// Policy implements api.Control.
func (g *Gateway) Policy(context.Context) (api.Document, error) {
	b, _ := g.recorder.State().Registry.Bundle()
	at, _ := g.registry().InForce(b.Digest)
	return api.Document{Digest: b.Digest, Since: at.String(), Files: b.Files, Actions: b.Actions}, nil
}

// Reload implements api.Control.
func (g *Gateway) Reload(ctx context.Context, dry bool, by evidence.By) (api.Reload, error) {
	g.changing.Lock()
	defer g.changing.Unlock()
	s, err := g.reload()
	if err != nil {
		return api.Reload{}, invalid(err)
	}
	old := g.opened
	registry := g.recorder.State().Registry
	if err := usable(registry, &s); err != nil {
		return api.Reload{}, invalid(err)
	}
	before, _ := registry.Bundle()
	after, why := standing(registry, &s)
	r := api.Reload{
		Config:  api.Diff{Before: registry.Config(), After: s.Config.Digest, Diff: configDiff(registry.ConfigBody(), s.Config)},
		Policy:  api.Diff{Before: registry.Policy(), After: after.Digest, Diff: policy.Diff(before, after)},
		Restart: restarts(old, s),
		Edited:  edited(registry, &s, why),
	}
	if s.Name != old.Name || s.Origin != old.Origin || s.Data != old.Data {
		return r, invalid(errors.New("gateway, log.origin and data are chosen once: a gateway that changes them is another gateway"))
	}
	if err := g.try(s, by); err != nil {
		return r, invalid(err)
	}
	if dry {
		return r, nil
	}
	if err := g.putInForce(ctx, s, by); err != nil {
		return r, g.problem(err)
	}
	g.gate.Sweep()
	g.compareFolder(&s, true)
	r.Applied = true
	return r, nil
}

// try applies the changes to the registry without recording them.
func (g *Gateway) try(s Settings, by evidence.By) error {
	registry := g.recorder.State().Registry
	drafts, err := g.changes(s, by)
	if err != nil {
		return err
	}
	for i, d := range drafts {
		h := d.Head
		h.Pos = evidence.Position{Gateway: g.opened.Name, Boot: g.recorder.Boot(), Seq: uint64(i)}
		h.Time = g.clock.now().UnixMicro()
		next, err := registry.Apply(h, d.Body)
		if err != nil {
			return err
		}
		registry = next
	}
	return nil
}

// restarts names the parts of the configuration that count from the next
// start only.
func restarts(old, s Settings) (keys []string) {
	if old.Limits != s.Limits || old.TokenTTL != s.TokenTTL || old.Grace != s.Grace {
		keys = append(keys, "limits")
	}
	if old.Sealing != s.Sealing || old.Heartbeat != s.Heartbeat {
		keys = append(keys, "sealing")
	}
	if old.Quorum != s.Quorum || !slices.EqualFunc(old.Witnesses, s.Witnesses, seal.Witness.Equal) || !old.Stamping.Equal(s.Stamping) {
		keys = append(keys, "log")
	}
	if !slices.Equal(old.Auditors, s.Auditors) {
		keys = append(keys, "auditors")
	}
	if old.Telling != s.Telling {
		keys = append(keys, "alerts")
	}
	if old.Sinking != s.Sinking {
		keys = append(keys, "sinks")
	}
	if !slices.Equal(old.Listening, s.Listening) {
		keys = append(keys, "listeners", "admin", "metrics")
	}
	return keys
}

// invalid says that what was asked can't be done as asked.
func invalid(err error) error {
	message, rest, _ := strings.Cut(err.Error(), "\n")
	return api.Invalid(message, "nothing was changed; mend it and try again", details(rest)...)
}

// details are the single errors of a joined one, a line each, with the hints
// that stand below them.
func details(lines string) (list []api.Detail) {
	for l := range strings.Lines(lines) {
		l = strings.TrimSpace(l)
		hint, ok := strings.CutPrefix(l, "hint: ")
		switch {
		case ok && len(list) > 0:
			list[len(list)-1].Hint = hint
		case l != "":
			list = append(list, api.Detail{Message: l})
		}
	}
	return list
}

// problem translates an error of the path for a person.
func (g *Gateway) problem(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, decision.ErrUnknown):
		return api.NotFound(plainRefusal(err), "")
	case errors.Is(err, decision.ErrDuplicate), errors.Is(err, decision.ErrRetired), errors.Is(err, decision.ErrStale):
		return api.Conflict(plainRefusal(err), "")
	case errors.Is(err, recorder.ErrRefused):
		return api.Invalid(plainRefusal(err), "")
	}
	return err
}

// plainRefusal leaves out the path's own words around a refusal.
func plainRefusal(err error) string {
	return strings.TrimPrefix(err.Error(), recorder.ErrRefused.Error()+": ")
}
