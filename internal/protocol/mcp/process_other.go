//go:build !linux

package mcp

import (
	"os"
	"syscall"
)

func apart() *syscall.SysProcAttr { return nil }

// killGroup makes a server end. What it has started may stay.
func killGroup(p *os.Process, _ bool) {
	_ = p.Kill() // that it has ended shows elsewhere
}
