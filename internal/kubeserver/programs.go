package kubeserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrMissing means that this machine lacks a program of which the server
// consists.
var ErrMissing = errors.New("Kubernetes isn't here") //nolint:staticcheck // it is a name

// Programs is the folder of tools that holds kubernetes/kube-apiserver,
// kubernetes/kubectl and kwok, as scripts/tool.sh makes them. EXHIBIT_TOOLS says
// where it is.
func Programs() (string, error) {
	dir := os.Getenv("EXHIBIT_TOOLS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(cache, "exhibit-tools")
	}
	for _, name := range []string{"kubernetes/kube-apiserver", "kubernetes/kubectl", "kwok"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("%w: %s is missing (make kube-tools builds it, once in some minutes)", ErrMissing, filepath.Join(dir, name))
		}
	}
	return dir, nil
}
