package http

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// Services are the resources in force. What their documents say goes on record
// before a request is understood by it.
type Services struct {
	cfg ServicesConfig

	mu       sync.Mutex
	seen     *[]Resource       // that current was made of
	current  []Resource        // nil while it can't be recorded
	recorded map[string]string // digests, by resource
}

// ServicesConfig is what Services need.
type ServicesConfig struct {
	// InForce returns the resources of the configuration in force, and the same
	// pointer for the same configuration.
	InForce func() *[]Resource
	Record  func(ctx context.Context, resource string, b evidence.ImportBody) error
	Logger  *slog.Logger
}

// NewServices returns Services.
func NewServices(c ServicesConfig) *Services {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return &Services{cfg: c, recorded: make(map[string]string)}
}

// Resources returns the resources in force: none while what is to be known of
// them can't be recorded.
func (s *Services) Resources() []Resource {
	now := s.cfg.InForce()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == now && s.current != nil {
		return s.current
	}
	s.current = nil
	for i := range *now {
		if err := s.record(&(*now)[i]); err != nil {
			s.cfg.Logger.Error("what a service offers cannot be recorded: nothing is passed to services", "resource", (*now)[i].Resource, "error", err)
			return nil
		}
	}
	s.seen, s.current = now, *now
	return s.current
}

// record records the operations of a resource, when they differ from what is on
// record; s.mu is held.
func (s *Services) record(r *Resource) error {
	list := []Operation{}
	if r.Operations != nil {
		list = r.Operations.List()
	}
	data := evidence.EncodeBody(list) // as the record will hold it, or the digest is of something else
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	if s.recorded[r.Resource] == digest {
		return nil
	}
	err := s.cfg.Record(context.Background(), r.Resource, evidence.ImportBody{
		Kind: "http.operations", Source: "configuration", Query: "paths of the OpenAPI document, or routes",
		Rows: len(list), Digest: digest, Data: data,
	})
	if err != nil {
		return err
	}
	s.recorded[r.Resource] = digest
	return nil
}

// Explain says how a request to a resource is understood (see Understand).
func (s *Services) Explain(_ context.Context, resource, text string) (*evidence.Shape, error) {
	for _, r := range s.Resources() {
		if r.Resource == resource {
			return Understand(r, text)
		}
	}
	return nil, fmt.Errorf("%w: %s", errors.ErrUnsupported, resource)
}
