//go:build failpoint

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var (
	due    string
	wanted int64 = 1
	passed atomic.Int64
)

func init() {
	name, n, counted := strings.Cut(os.Getenv("EXHIBIT_FAILPOINT"), "@")
	due = name
	if counted {
		var err error
		if wanted, err = strconv.ParseInt(n, 10, 64); err != nil {
			panic("EXHIBIT_FAILPOINT: " + err.Error())
		}
	}
}

func hit(name string) {
	if name == "" || name != due || passed.Add(1) != wanted {
		return
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic(err)
	}
	select {} // the signal is on its way
}
