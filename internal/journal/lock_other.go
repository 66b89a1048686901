//go:build !unix || solaris || illumos || aix

package journal

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

func lock(f *os.File) error {
	return fmt.Errorf("locking %s on %s: %w", f.Name(), runtime.GOOS, errors.ErrUnsupported)
}
