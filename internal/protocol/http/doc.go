// Package http speaks HTTP with agents: REST and the like, gRPC, WebSocket,
// server-sent events.
//
// In flow requests in their normal form, from httpgate; out flow commands: the
// method, the route's template and the operation, as an OpenAPI document or a
// list of routes names them. What no route names is opaque. A gRPC call is its
// service and method. Contents of requests are sealed, those of responses
// digested; declared values of JSON contents are facts that policy may ask
// about.
package http
