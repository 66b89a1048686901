// Package postgres serves agents that speak the PostgreSQL frontend/backend
// protocol, version 3 (PostgreSQL documentation, chapter "Frontend/Backend
// Protocol").
//
// In come an agent's connection and a Gate. The agent proves itself to the
// Gate, never to the server; the upstream connection is made with a credential
// that it never sees. From then on two goroutines share a connection. The
// agent's reads frames, gathers those that belong together into commands, lets
// the session Begin them, and forwards the exact bytes it parsed. The server's
// scans the headers of what comes back, matches messages to commands, Ends
// each before the agent can see that it ended, and passes the bytes on. Out go
// commands, notes and outcomes to the Session, and one stream of bytes in
// either direction.
//
// What a text asks is somebody else's business: see Understander.
package postgres
