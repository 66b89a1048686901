package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/exhibit-gateway/exhibit/internal/protocol"
)

// Kubeconfig is the configuration of a client of Kubernetes, which says where a
// cluster is and who the account is there
// (https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/). It takes the
// place of all else.
type Kubeconfig struct {
	File    string
	Context string // "" is the file's current one
}

// kubeconfig is what is read of it.
type kubeconfig struct {
	Current  string `json:"current-context"`
	Clusters []struct {
		Name    string      `json:"name"`
		Cluster kubeCluster `json:"cluster"`
	} `json:"clusters"`
	Contexts []struct {
		Name    string `json:"name"`
		Context struct {
			Cluster string `json:"cluster"`
			User    string `json:"user"`
		} `json:"context"`
	} `json:"contexts"`
	Users []struct {
		Name string   `json:"name"`
		User kubeUser `json:"user"`
	} `json:"users"`
}

type kubeCluster struct {
	Server     string `json:"server"`
	CA         []byte `json:"certificate-authority-data"`
	CAFile     string `json:"certificate-authority"`
	ServerName string `json:"tls-server-name"`
	Insecure   bool   `json:"insecure-skip-tls-verify"`
	Proxy      string `json:"proxy-url"`
}

type kubeUser struct {
	Token     string `json:"token"`
	TokenFile string `json:"tokenFile"`
	Cert      []byte `json:"client-certificate-data"`
	CertFile  string `json:"client-certificate"`
	Key       []byte `json:"client-key-data"`
	KeyFile   string `json:"client-key"`

	// What isn't offered: programs, passwords, and accounts that ask for others.
	Exec     any    `json:"exec"`
	Provider any    `json:"auth-provider"`
	Password string `json:"password"`
	As       string `json:"as"`
}

// upstream returns the upstream of a kubeconfig, which is read for each session.
func (k Kubeconfig) upstream() (protocol.Upstream, error) {
	up, err := k.read()
	if err != nil {
		return protocol.Upstream{}, fmt.Errorf("kubeconfig %s: %w", k.File, err)
	}
	return up, nil
}

func (k Kubeconfig) read() (up protocol.Upstream, err error) {
	text, _, err := new(file).read(k.File)
	if err != nil {
		return up, err
	}
	var c kubeconfig
	if err := yaml.Unmarshal(text, &c); err != nil {
		return up, errors.New("not a kubeconfig") // the library's error quotes it
	}
	cluster, user, err := c.context(cmp.Or(k.Context, c.Current))
	if err != nil {
		return up, err
	}
	dir := filepath.Dir(k.File)
	if err := errors.Join(
		content(dir, cluster.CAFile, &cluster.CA), content(dir, user.CertFile, &user.Cert), content(dir, user.KeyFile, &user.Key),
	); err != nil {
		return up, err
	}
	if up.Address, up.TLS, err = cluster.tls(); err != nil {
		return up, err
	}
	return up, user.prove(dir, &up)
}

// context finds what a context names.
func (c *kubeconfig) context(name string) (cluster kubeCluster, user kubeUser, err error) {
	for _, x := range c.Contexts {
		if x.Name != name {
			continue
		}
		i, j := -1, -1
		for n := range c.Clusters {
			if c.Clusters[n].Name == x.Context.Cluster {
				i = n
			}
		}
		for n := range c.Users {
			if c.Users[n].Name == x.Context.User {
				j = n
			}
		}
		if i < 0 || j < 0 {
			return cluster, user, fmt.Errorf("context %s names a cluster or user that isn't there", name)
		}
		return c.Clusters[i].Cluster, c.Users[j].User, nil
	}
	return cluster, user, fmt.Errorf("there is no context %q", name)
}

// content reads what a file has, unless it is there already.
func content(dir, name string, into *[]byte) (err error) {
	if name == "" || len(*into) > 0 {
		return nil
	}
	*into, _, err = new(file).read(in(dir, name))
	return err
}

func in(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// tls is where the API server is, and how it is spoken to.
func (c *kubeCluster) tls() (address string, t *tls.Config, err error) {
	u, err := url.Parse(c.Server)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "":
		return "", nil, errors.New("the server is no https URL")
	case strings.Trim(u.Path, "/") != "":
		return "", nil, errors.New("the server's URL has a path, which isn't passed on")
	case c.Insecure:
		return "", nil, errors.New("insecure-skip-tls-verify would hand the account to anybody")
	case c.Proxy != "":
		return "", nil, errors.New("proxy-url isn't supported")
	}
	t = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cmp.Or(c.ServerName, u.Hostname())}
	if len(c.CA) > 0 {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(c.CA) {
			return "", nil, errors.New("the certificate authority is no certificate in PEM")
		}
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")), t, nil
}

// prove says how the account proves itself.
func (u *kubeUser) prove(dir string, up *protocol.Upstream) error {
	if u.Exec != nil || u.Provider != nil || u.Password != "" || u.As != "" {
		return errors.New("the user proves itself by a token or a client certificate, not by exec, auth-provider, password or as")
	}
	if len(u.Cert) > 0 {
		pair, err := tls.X509KeyPair(u.Cert, u.Key)
		if err != nil {
			return errors.New("the client certificate and its key don't fit")
		}
		up.TLS.Certificates = []tls.Certificate{pair}
	}
	token := func() (string, error) { return u.Token, nil }
	if u.TokenFile != "" { // outranks the other, and may be renewed
		token = func() (string, error) {
			b, err := os.ReadFile(in(dir, u.TokenFile))
			return strings.TrimSpace(string(b)), err
		}
	}
	if first, err := token(); err != nil || first == "" {
		if err == nil && len(u.Cert) == 0 {
			err = errors.New("the user has neither token nor client certificate")
		}
		return err
	}
	up.Header = func(context.Context) (string, string, error) {
		v, err := token()
		if err != nil {
			return "", "", fmt.Errorf("reading the upstream's credential: %w", err)
		}
		return "Authorization", "Bearer " + v, nil
	}
	return nil
}
