package mcp

import (
	"os"
	"syscall"
)

// apart gives a server a process group of its own, and ends it with the gateway.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killGroup asks a server and all that it has started to end, or makes them.
func killGroup(p *os.Process, now bool) {
	sig := syscall.SIGTERM
	if now {
		sig = syscall.SIGKILL
	}
	_ = syscall.Kill(-p.Pid, sig) // that it has ended shows elsewhere
}
