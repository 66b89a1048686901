package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// UnsealRequest asks for the sealed parts of an auditor's sample. Where it says
// which records those are, who asks has held that against the pack.
type UnsealRequest struct {
	ID        string   `json:"id" minLength:"1" maxLength:"128" doc:"of the sample"`
	Sample    string   `json:"sample" pattern:"^[0-9a-f]{64}$" doc:"digest of the sample, hex"`
	Manifest  string   `json:"manifest" pattern:"^[0-9a-f]{64}$" doc:"SHA-256 of the pack's manifest, hex"`
	TreeSize  uint64   `json:"tree_size" minimum:"1" doc:"of the log that the pack is proven against"`
	Last      string   `json:"last" maxLength:"128" doc:"position of the pack's last record"`
	Records   []string `json:"records" minItems:"1" maxItems:"30000" doc:"positions of the sampled rows' records"`
	Reader    string   `json:"reader" minLength:"1" maxLength:"200" doc:"who gets the answer; stands in the record"`
	Purpose   string   `json:"purpose" minLength:"1" maxLength:"1000" doc:"what for; stands in the record"`
	Recipient string   `json:"recipient" minLength:"1" maxLength:"4000" doc:"age recipient of the auditor, which the answer is encrypted to"`
}

// Unsealed is an answer that was written.
type Unsealed struct {
	Made    string `json:"made" doc:"position of the record with the pack's digest"`
	Read    string `json:"read" doc:"position of the record of this answer"`
	Records int    `json:"records"`
	Blocks  uint64 `json:"blocks" doc:"of the log that proves both"`
}

func (a *routes) registerSamples() {
	stream(a, operation{id: "unseal-sample", method: "POST", path: "/v1/samples/unseal", tag: "packs", summary: "Open what is sealed of an auditor's sample; the answer streams as data events, encrypted to the auditor"},
		func(ctx context.Context, in *body[UnsealRequest], s *events) error {
			out, err := a.Services.Packs.UnsealSample(ctx, in.Body, by(ctx), s)
			s.event = Event{Unsealed: &out}
			return err
		})
}

// UnsealSample writes the answer to a sample to w, encrypted.
func (c *Client) UnsealSample(ctx context.Context, r UnsealRequest, w io.Writer) (Unsealed, error) {
	e, err := c.events(ctx, http.MethodPost, "/v1/samples/unseal", r, func(e Event) error {
		if _, err := w.Write(e.Data); err != nil {
			return fmt.Errorf("writing the gateway's answer: %w", err)
		}
		return nil
	})
	if err != nil {
		return Unsealed{}, err
	}
	if e.Unsealed == nil {
		return Unsealed{}, errors.New("the gateway's answer has no result")
	}
	return *e.Unsealed, nil
}
