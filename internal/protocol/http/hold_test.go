package http_test

import (
	"encoding/json"
	"fmt"
	"io"
	stdhttp "net/http"
	"strings"
	"testing"
	"time"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/protocol"
	"github.com/exhibit-gateway/exhibit/internal/protocol/http"
	"github.com/exhibit-gateway/exhibit/internal/protocol/prototest"
)

// content answers with so many bytes, their number said or not.
func content(n int, said bool) stdhttp.Handler {
	return stdhttp.HandlerFunc(func(w stdhttp.ResponseWriter, _ *stdhttp.Request) {
		if said {
			w.Header().Set("Content-Length", fmt.Sprint(n))
			w.Header().Set("Etag", "of-the-service")
		}
		io.WriteString(w, strings.Repeat("x", n)) //nolint:errcheck // it may be cut
	})
}

func limited(o evidence.Obligations) func(*evidence.Command) evidence.Decision {
	return func(*evidence.Command) evidence.Decision {
		return evidence.Decision{Effect: evidence.Allow, Rules: []string{"modest"}, Obligations: &o}
	}
}

func TestARefusalForWantOfAnApprovalNamesTheRequest(t *testing.T) {
	g := startGateway(t, content(1, true), http.Resource{})
	g.Decide = func(*evidence.Command) evidence.Decision {
		return evidence.Decision{Effect: evidence.Deny, Reason: "it needs the approval of dba; request gw1.1.7 asks for it", Approval: "gw1.1.7"}
	}
	got, err := g.agent(1).do("POST", "/things", "x")
	if err != nil || got.Status != stdhttp.StatusForbidden {
		t.Fatalf("%+v, %v", got, err)
	}
	var p struct{ Detail, Hint string }
	if err := json.Unmarshal([]byte(got.Body), &p); err != nil || !strings.Contains(p.Detail, "gw1.1.7") || !strings.Contains(p.Hint, "exhibit approval show gw1.1.7") {
		t.Errorf("%s, %v", got.Body, err)
	}
}

// What people approve is all of a request: content that streams isn't.
func TestARequestIsApprovedWithItsContent(t *testing.T) {
	g := startGateway(t, content(1, true), http.Resource{})
	asked := make(chan *evidence.Command, 2)
	g.Hold = func(c *evidence.Command) <-chan evidence.Decision {
		asked <- c
		answer := make(chan evidence.Decision, 1)
		answer <- evidence.Decision{Effect: evidence.Allow, Approval: prototest.Request}
		return answer
	}
	if got, err := g.agent(1).do("POST", "/things", "all of it"); err != nil || got.Status != stdhttp.StatusOK {
		t.Fatalf("%+v, %v", got, err)
	}
	if c := <-asked; c.Streams || len(c.Params) != 1 || string(c.Params[0]) != "all of it" || !strings.HasPrefix(string(c.Raw), "POST /things") {
		t.Errorf("what is asked for is %q %q, streams %t", c.Raw, c.Params, c.Streams)
	}
	r, err := stdhttp.NewRequestWithContext(t.Context(), "POST", "http://gateway.test/things", io.MultiReader(strings.NewReader("no length")))
	if err != nil {
		t.Fatal(err)
	}
	a := g.agent(1)
	r.Header.Set("Authorization", "Bearer "+a.token)
	if _, err := a.send(r); err != nil {
		t.Fatal(err)
	}
	if c := <-asked; !c.Streams {
		t.Error("content of no known length is one that people have seen")
	}
}

func TestAnAnswerPastItsBytes(t *testing.T) {
	for name, test := range map[string]struct {
		n      int
		said   bool
		status int // 0 is one that is cut, if it has begun
	}{
		"as many as it may": {1000, true, stdhttp.StatusOK},
		"said before":       {1001, true, stdhttp.StatusRequestEntityTooLarge},
		"on the way":        {1 << 20, false, 0},
	} {
		for version := 1; version <= 2; version++ {
			t.Run(fmt.Sprintf("%s, HTTP/%d", name, version), func(t *testing.T) {
				g := startGateway(t, content(test.n, test.said), http.Resource{})
				g.Decide = limited(evidence.Obligations{Bytes: 1000})
				got, err := g.agent(version).do("GET", "/things/1", "")
				o := g.last().Outcome()
				switch {
				case test.status == 0: // where nothing of it has gone yet, it can still be said
					if err == nil && got.Status != stdhttp.StatusRequestEntityTooLarge || len(got.Body) > 1000 {
						t.Errorf("the agent sees a whole answer: %+v", got)
					}
				case err != nil || got.Status != test.status:
					t.Errorf("%+v, %v", got, err)
				case test.status != stdhttp.StatusOK && (!strings.Contains(got.Body, "1000 bytes") || got.Header.Get("Etag") != ""):
					t.Errorf("%+v", got)
				}
				want := evidence.Outcome{Class: evidence.Cancelled, Code: protocol.ExcessBytes}
				if test.status == stdhttp.StatusOK {
					want = evidence.Outcome{Class: evidence.OK, Code: "200"}
				}
				if o.Class != want.Class || o.Code != want.Code || o.Reply > 1000 {
					t.Errorf("outcome %+v", o)
				}
			})
		}
	}
}

func TestARequestPastItsTime(t *testing.T) {
	for name, service := range map[string]stdhttp.HandlerFunc{
		"before the answer": func(_ stdhttp.ResponseWriter, r *stdhttp.Request) { <-r.Context().Done() },
		"within it": func(w stdhttp.ResponseWriter, r *stdhttp.Request) {
			io.WriteString(w, "part") //nolint:errcheck // it is seen below
			stdhttp.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := startGateway(t, service, http.Resource{})
			g.Decide = limited(evidence.Obligations{Millis: 100})
			start := time.Now()
			got, err := g.agent(1).do("GET", "/things/1", "")
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			want := evidence.InDoubt // nobody knows what the service has done
			if name == "within it" {
				want = evidence.Cancelled
				if err == nil {
					t.Errorf("the agent sees a whole answer: %+v", got)
				}
			} else if err != nil || got.Status != stdhttp.StatusGatewayTimeout || !strings.Contains(got.Body, "100ms") {
				t.Errorf("%+v, %v", got, err)
			}
			if o := g.last().Outcome(); o.Class != want || o.Code != protocol.ExcessTime {
				t.Errorf("outcome %+v", o)
			}
		})
	}
}
