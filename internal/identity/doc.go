// Package identity says who an agent is.
//
// A key file comes in, and an Authority that signs and checks short-lived
// tokens comes out. An agent proves itself with an assertion signed by its
// enrolled key (RFC 7523), gets a token (a JWT with EdDSA, RFC 8037), and shows
// that token to whatever listener it connects to. Or it shows a certificate of
// that key, where the protocol lets TLS prove that it holds it. Claims flow out
// of a token, or an Error with a code for the record.
//
// The package keeps no registry: whether a key is enrolled, revoked or its
// agent retired is asked of the Registry it is given, which is the same that
// decides commands.
package identity
