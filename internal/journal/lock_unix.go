//go:build unix && !solaris && !illumos && !aix

package journal

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lock takes the lock that the system gives up when f is closed or the process
// ends, however it ends.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("%w: %s", ErrLocked, f.Name())
	}
	if err != nil {
		return fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return nil
}
