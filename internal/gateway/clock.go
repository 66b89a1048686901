package gateway

import (
	"context"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// clock is where the gateway reads time. People set the wall clock, and nobody
// sets the other, which tells when they did.
type clock interface {
	now() time.Time         // by the wall clock
	elapsed() time.Duration // since some moment, whatever the wall clock says
}

type system struct{}

var booted = time.Now()

func (system) now() time.Time { return time.Now() }

func (system) elapsed() time.Duration { return time.Since(booted) }

// maxStep is how far the wall clock may drift from the monotonic one before that
// is a step. It adds up from look to look: a clock that stands still or is set
// by little and little gets nowhere unseen.
const maxStep = time.Second

// heartbeat shows that the gateway runs, also when nothing happens, and
// watches the wall clock.
func (g *Gateway) heartbeat(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	beat := g.beganAt
	since, wallSince := g.beganAt, g.began.Round(0) // as of the last step
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		wall, now := g.clock.now().Round(0), g.clock.elapsed()
		if step := wall.Sub(wallSince) - (now - since); step.Abs() > maxStep {
			g.log.Warn("the wall clock stepped", "by", step)
			if err := g.record(ctx, evidence.Power, evidence.TimeStep, evidence.TimeStepBody{StepMicros: step.Microseconds()}); err != nil {
				return err
			}
			if wall.Before(g.began) {
				// What was used before the start is not remembered (identity.NewAssertions).
				g.log.Warn("agents get no tokens until the wall clock is past the gateway's start: restart the gateway", "start", g.began)
			}
			since, wallSince = now, wall
		}
		// Early enough that the next look still is in time.
		if now-beat < g.opened.Heartbeat-2*time.Second {
			continue
		}
		beat = now
		if err := g.record(ctx, evidence.Process, evidence.Heartbeat, evidence.HeartbeatBody{
			Sessions: g.gate.OpenSessions(), Mono: (now - g.beganAt).Microseconds(), Accepted: g.accepted(),
		}); err != nil {
			return err
		}
		if err := g.snapshot(ctx); err != nil {
			return err
		}
	}
}
