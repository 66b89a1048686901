// Package kubernetes is an endpoint of the Kubernetes API for agents.
//
// In flow requests in their normal form, from httpgate; out flow commands: what
// the API server itself makes of a request (its RequestInfo), and of a content
// the kind and name of the object. An object is written
// resource.group/namespace/name/subresource, as in "get pods/default/web".
//
// Upstream the gateway asks as the agent (impersonation), and names each request
// by the position of its command (Audit-ID), so that the cluster's own audit log
// says who asked and leads to the record.
package kubernetes
