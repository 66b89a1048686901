package kubernetes

import (
	"context"
	"net/http"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/httpgate"
	"github.com/exhibit-gateway/exhibit/internal/protocol/kubernetes/remotecommand"
)

// streams are the actions that lead to another protocol, or to another server.
var streams = map[string]bool{Name + ":exec": true, Name + ":attach": true, Name + ":portforward": true, Name + ":proxy": true}

// protocols are those that API servers and their clients switch to: RFC 6455,
// and SPDY as it was before HTTP/2.
var protocols = map[string]string{"websocket": "websocket", "spdy/3.1": "SPDY/3.1"}

// carriers say what flows in streams, by action. Without one the bytes are
// digested and counted both ways, and understood by nobody.
var carriers = map[string]func(context.Context, *httpgate.Tunnel) evidence.Outcome{
	Name + ":exec": remotecommand.Carry, Name + ":attach": remotecommand.Carry,
}

// stream passes on a request that leads to another protocol or server: it is
// decided as it begins.
func (p *Protocol) stream(w http.ResponseWriter, r *httpgate.Request, s *httpgate.Session, c command) {
	cmd := &evidence.Command{Shape: c.Shape}
	switch to := protocols[r.Switch]; {
	case r.Switch == "":
		s.Forward(w, r, nil, cmd)
	case to == "" || r.ContentLength != 0:
		s.Skip(w, r.Request, c.Shape, &httpgate.Failure{
			Status: http.StatusBadRequest, Reason: "connections switch to WebSocket or SPDY/3.1, by a request without content", Hint: "Use kubectl or another client of the API.",
		})
	case carriers[c.action] != nil && !remotecommand.Offered(r.Header):
		s.Skip(w, r.Request, c.Shape, &httpgate.Failure{
			Status: http.StatusBadRequest, Reason: "a subprotocol is asked for that isn't one of exec and attach", Hint: "Use kubectl or another client of the API.",
		})
	default:
		s.ForwardTo(w, r, cmd, httpgate.Switch{Protocol: to, Carry: carriers[c.action]})
	}
}
