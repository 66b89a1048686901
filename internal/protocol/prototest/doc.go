// Package prototest is the suite that every protocol passes.
//
// In goes a Harness: a protocol, a server to lead to, and an agent that speaks
// to both. Out comes a test that the protocol keeps the contract of package
// protocol: nothing is forwarded before Begin has returned, nothing is shown
// before End has, every byte is accounted for, and nothing leaks.
package prototest
