package api

import (
	"context"
	"net/http"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

// Readiness says what an auditor would find today.
type Readiness interface {
	// Readiness says what a pack up to now would show.
	Readiness(ctx context.Context, q ReadinessQuery, by evidence.By) (ReadinessReport, error)
}

// ReadinessQuery says what is looked for.
type ReadinessQuery struct {
	From time.Time     // its day (UTC) is the first that counts; zero is the log's first
	Soon time.Duration // how far ahead an end is worth a word
}

// ReadinessReport is what a pack up to now would show, criterion by criterion,
// and what there is to do.
type ReadinessReport struct {
	Ready    bool                 `json:"ready" doc:"nothing blocks: no control test has exceptions, every agent has an owner who is there, every alert was looked at"`
	From     time.Time            `json:"from" doc:"the first moment that counts"`
	Position string               `json:"position" doc:"of the newest record that counts"`
	Time     time.Time            `json:"time" doc:"of that record"`
	Allowed  uint64               `json:"allowed" doc:"decisions"`
	Refused  uint64               `json:"refused" doc:"decisions"`
	Opaque   uint64               `json:"opaque" doc:"commands that were allowed and not understood"`
	Concerns []workpaper.Concern  `json:"concerns" doc:"those that block first"`
	Criteria []workpaper.Standing `json:"criteria" doc:"what the tests of the controls come to"`
	Tests    []*workpaper.Test    `json:"tests" doc:"of the exceptions the newest are listed"`
}

func (a *routes) registerReadiness() {
	type which struct {
		From string `query:"from" doc:"date or time (RFC 3339): its day (UTC) is the first that counts; default: the log's first"`
		Days int    `query:"soon" default:"14" minimum:"0" maximum:"3650" doc:"days ahead in which an end is worth a word"`
	}
	handle(a, operation{id: "readiness", method: "GET", path: "/v1/readiness", tag: "packs", summary: "What a pack up to now would show, and what there is to do"},
		func(ctx context.Context, in *which) (*body[ReadinessReport], error) {
			from, err := ParseMoment(in.From)
			if err == nil && !from.Position.IsZero() {
				err = Invalid("readiness counts whole days: a position is no day", "give a date, like 2026-01-01")
			}
			if err != nil {
				return nil, err
			}
			out, err := a.Services.Readiness.Readiness(ctx, ReadinessQuery{From: from.Time, Soon: time.Duration(in.Days) * 24 * time.Hour}, by(ctx))
			return &body[ReadinessReport]{out}, err
		})
}

// Readiness says what a pack from a day up to now would show; from is empty for
// the log's first.
func (c *Client) Readiness(ctx context.Context, from, soon string) (ReadinessReport, error) {
	return call[ReadinessReport](ctx, c, http.MethodGet, "/v1/readiness?"+query("from", from, "soon", soon), nil)
}
