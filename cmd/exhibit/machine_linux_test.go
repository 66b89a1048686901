package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestDumpsAreForbidden(t *testing.T) {
	dumpable := func() int {
		n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if dumpable() == 0 {
		t.Skip("somebody has forbidden them already")
	}
	defer func() {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := forbidDumps(); err != nil {
		t.Fatal(err)
	}
	if n := dumpable(); n != 0 {
		t.Errorf("PR_GET_DUMPABLE is %d", n)
	}
}
