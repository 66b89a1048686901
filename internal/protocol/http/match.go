package http

import (
	"maps"
	"mime"
	"strings"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
)

// matched returns a shape with what the declared pointers find in a content. A
// content that can't be looked at is opaque: policy could be made to see
// another one than the service does.
func matched(s *evidence.Shape, pointers []string, a *asked) *evidence.Shape {
	if a.length == 0 || s.Path != "http" {
		return s
	}
	out := *s
	out.Facts = maps.Clone(s.Facts)
	t, _, err := mime.ParseMediaType(a.media)
	isJSON := err == nil && (t == "application/json" || strings.HasSuffix(t, "+json"))
	if !isJSON || a.content == nil {
		// Not JSON by its own word, or too large: the service may think otherwise.
		return opaque(&out)
	}
	facts, ok := httpgate.Match(a.content, pointers)
	if !ok {
		return opaque(&out)
	}
	maps.Copy(out.Facts, facts)
	return &out
}

func opaque(s *evidence.Shape) *evidence.Shape {
	s.Parse, s.Verb = evidence.ParseOpaque, evidence.VerbOpaque
	s.Checks = append(append([]evidence.Check(nil), s.Checks...), evidence.Check{Action: Name + ":opaque", Object: s.Checks[0].Object})
	return s
}
