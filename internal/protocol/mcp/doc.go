// Package mcp speaks the Model Context Protocol with agents, over streamable
// HTTP, before servers that are reached over HTTP or started as processes.
//
// In flow requests in their normal form, from httpgate, each with one JSON-RPC
// message; out flow commands: the method, and the tool, prompt or resource that
// the server has listed. A message goes on as the bytes it came in. What comes
// back is read message by message: lists show what policy allows the agent and
// what a person has accepted, what a server asks of the agent is a command of
// its own, and a result is on record before the agent sees it.
//
// A tool is its definition: what a server lists goes on record, and a tool whose
// definition nobody has accepted is held, which is to say neither shown nor
// called.
//
// An endpoint is several servers that agents see as one. It stands before them
// and decides nothing: a request to it becomes requests to its members, each on
// the way above, and what they answer is put together.
package mcp
