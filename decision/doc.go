// Package decision says who may do what, and is pure.
//
// Control records flow in (Apply) and make a Registry: agents, credentials,
// grants, resources and the policy in force at one position. A Request flows
// in (Decide) and a decision flows out, with the rules and grants it rests on.
// There is no I/O and no clock: the same records and the same request give the
// same decision, byte for byte, on the gateway today and at the auditor's desk
// next year. Explain shows how a decision came about, and Access lists what
// every agent could do.
//
// Policy is Cedar. A rule that permits names a role in its principal scope, and
// a grant puts one agent in one role on one resource until it expires: so the
// list of grants is the whole list of who was let in.
//
//	principal  Agent::"billing-bot", in Role::"reader" by its grants on this resource
//	action     Action::"postgres:select", in Action::"read" by the bundle's tree
//	resource   Object::"orders-db/public.orders" in Resource::"orders-db",
//	           or Resource::"orders-db" itself
//	context    the facts of session and command, flattened: context.ticket;
//	           context.time is the request's own time, so that it replays
package decision
