package api

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"

	"github.com/exhibit-gateway/exhibit/evidence"
)

// People tells who a caller is. The configuration implements it.
type People interface {
	// PersonByUID returns the person whose processes run as uid.
	PersonByUID(uid uint32) (evidence.Person, bool)
	// PersonByCertificate returns the person whom a certificate with these
	// e-mail addresses and URIs identifies.
	PersonByCertificate(emails, uris []string) (evidence.Person, bool)
}

// connKey is where a request's context has the peer of its connection.
type connKey struct{}

// peer is the other end of a connection, as the kernel knows it.
type peer struct {
	uid  uint32
	unix bool
	err  error // why the uid isn't known
}

// withPeer is the ConnContext of the server: it asks once per connection.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return context.WithValue(ctx, connKey{}, peer{})
	}
	uid, err := peerUID(u)
	return context.WithValue(ctx, connKey{}, peer{uid: uid, unix: true, err: err})
}

// identify says which person sent a request. configFile is named in hints.
func identify(ctx context.Context, state *tls.ConnectionState, people People, configFile string) (evidence.By, error) {
	if p, _ := ctx.Value(connKey{}).(peer); p.unix {
		if p.err != nil {
			return evidence.By{}, Forbidden("the peer of the socket is unknown: "+p.err.Error(), "")
		}
		person, ok := people.PersonByUID(p.uid)
		if !ok {
			return evidence.By{}, Forbidden(fmt.Sprintf("uid %d is nobody here", p.uid),
				fmt.Sprintf("in %s, add %d to the uids of a person under people, then reload", configFile, p.uid))
		}
		return evidence.By{Person: person, Via: fmt.Sprintf("unix peer uid %d", p.uid)}, nil
	}
	if state == nil || len(state.VerifiedChains) == 0 {
		return evidence.By{}, Unauthorized("a client certificate is needed", "use one of the authority that admin.https.client_ca names, or the admin socket")
	}
	cert := state.VerifiedChains[0][0]
	var uris []string
	for _, u := range cert.URIs {
		uris = append(uris, u.String())
	}
	person, ok := people.PersonByCertificate(cert.EmailAddresses, uris)
	if !ok {
		return evidence.By{}, Unauthorized("the client certificate names nobody here",
			fmt.Sprintf("in %s, one person under people needs the certificate's e-mail address as email, or its URI as id", configFile))
	}
	return evidence.By{Person: person, Via: fmt.Sprintf("client certificate %s of %s", cert.SerialNumber.Text(16), cert.Issuer)}, nil
}

// clientOf names the peer of a request as records do.
func clientOf(r *http.Request) string {
	if p, _ := r.Context().Value(connKey{}).(peer); p.unix {
		if p.err != nil {
			return "unix"
		}
		return fmt.Sprintf("unix uid=%d", p.uid)
	}
	return r.RemoteAddr
}
