// Package httpgate serves agents that speak HTTP.
//
// In flow agents' connections (HTTP/1.1 and HTTP/2, with or without TLS); out
// flow requests, each in one normal form and with the session of its
// credential, to a Handler: the protocol above HTTP that makes commands of
// them. A Handler passes a request on with Session.Forward, which writes the
// very form that was decided on to the upstream, with the gateway's own
// credential in it, and the response back once its outcome is on record.
//
// A session is a credential at a resource. It outlives connections and ends
// when it has been idle for a while, when its credential expires, or when the
// gateway ends it. Upstream connections belong to one session.
//
// What can be read in two ways is refused or written in one (RFC 9110, RFC
// 9112, RFC 3986): see request.go.
package httpgate
