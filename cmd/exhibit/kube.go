package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/exhibit-gateway/exhibit/internal/api"
)

func newKube(a *app) *cobra.Command {
	return group(groupAgent, "kube", "Kubernetes clusters through the gateway, for kubectl and its like", newKubeConfig(a), newKubeCredential(a))
}

const kubeTokens = `The token is asked for as exhibit token does: at --url, or at --socket of a
gateway on this machine.`

func newKubeConfig(a *app) *cobra.Command {
	var key agentKey
	var agent, namespace, serverName, output string
	c := &cobra.Command{
		Use: "config CLUSTER=https://HOST[:PORT][/PATH]... --key FILE", Short: "Write a kubeconfig that leads through the gateway",
		Long: `Writes a configuration for kubectl, helm and whatever else reads one. Each
cluster is a context of it, the first the current one; CLUSTER may be any name,
and the URL is that of the gateway's listener and of the cluster there.

The file holds no secret: clients run exhibit kube credential for a short-lived
token. They send no token without TLS, so the listener must have it, by one of the
system's authorities or by --ca.

` + kubeTokens,
		Example: `  exhibit kube config prod=https://gateway.example.com:6443/prod \
    --key deployer.key --url https://gateway.example.com:8443 --output deployer.kubeconfig
  KUBECONFIG=deployer.kubeconfig kubectl get pods`,
		RunE: func(cmd *cobra.Command, args []string) error {
			plugin, err := a.kubePlugin(cmd, &key, agent)
			if err != nil {
				return err
			}
			k := kubeconfig{APIVersion: "v1", Kind: "Config", Users: []kubeUser{{Name: plugin.agent, User: kubeExec{plugin}}}}
			authority, err := a.authority()
			if err != nil {
				return err
			}
			for _, arg := range args {
				if err := k.add(arg, plugin.agent, namespace, kubeServer{Authority: authority, Name: serverName}); err != nil {
					return err
				}
			}
			if len(k.Clusters) == 0 {
				return usagef("%s: CLUSTER=URL is missing", cmd.CommandPath())
			}
			text, err := yaml.Marshal(k)
			if err != nil {
				return err
			}
			if output != "" {
				return os.WriteFile(output, text, 0o600)
			}
			_, err = a.out.Write(text)
			return err
		},
	}
	f := c.Flags()
	key.flags(f)
	f.StringVar(&agent, "agent", "", "the agent's id (default: as noted in the key file)")
	f.StringVar(&namespace, "namespace", "", "namespace of the contexts")
	f.StringVar(&serverName, "server-name", "", "name that the gateway's certificate must have (default: the URL's host)")
	f.StringVar(&output, "output", "", "file to write instead of standard output")
	return c
}

// kubeconfig is the configuration of clients of Kubernetes
// (https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/).
type kubeconfig struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Current    string        `json:"current-context"`
	Clusters   []kubeCluster `json:"clusters"`
	Contexts   []kubeContext `json:"contexts"`
	Users      []kubeUser    `json:"users"`
}

type kubeCluster struct {
	Name    string     `json:"name"`
	Cluster kubeServer `json:"cluster"`
}

type kubeServer struct {
	Server    string `json:"server"`
	Authority string `json:"certificate-authority-data,omitempty"`
	Name      string `json:"tls-server-name,omitempty"`
}

type kubeContext struct {
	Name    string `json:"name"`
	Context struct {
		Cluster   string `json:"cluster"`
		User      string `json:"user"`
		Namespace string `json:"namespace,omitempty"`
	} `json:"context"`
}

type kubeUser struct {
	Name string   `json:"name"`
	User kubeExec `json:"user"`
}

type kubeExec struct {
	Exec *kubePlugin `json:"exec"`
}

// kubePlugin is the program that gives clients their credential.
type kubePlugin struct {
	APIVersion  string   `json:"apiVersion"`
	Command     string   `json:"command"`
	Args        []string `json:"args"`
	Interactive string   `json:"interactiveMode"`

	agent string
}

const execAPI = "client.authentication.k8s.io/v1"

// kubePlugin makes the call of exhibit kube credential that says what this one
// says.
func (a *app) kubePlugin(cmd *cobra.Command, key *agentKey, agent string) (*kubePlugin, error) {
	var named []string
	if agent != "" {
		named = []string{agent}
	}
	id, err := tokenAgent(cmd, key.file, named)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	p := &kubePlugin{APIVersion: execAPI, Command: self, Interactive: "Never", agent: id, Args: []string{"kube", "credential", id}}
	for _, f := range []struct {
		flag, value string
		path        bool
	}{
		{"key", key.file, true}, {"audience", key.audience, false}, {"ticket", key.ticket, false}, {"for", key.behalf, false},
		{"url", a.url, false}, {"ca", a.ca, true}, {"socket", a.socket, true}, {"data", a.data, true}, {"config", a.configFile, true},
	} {
		if f.value == "" {
			continue
		}
		if f.path { // clients start it from anywhere
			if f.value, err = filepath.Abs(f.value); err != nil {
				return nil, fmt.Errorf("finding %s: %w", f.value, err)
			}
		}
		p.Args = append(p.Args, "--"+f.flag+"="+f.value)
	}
	return p, nil
}

// authority is the file of --ca as a kubeconfig holds it.
func (a *app) authority() (string, error) {
	if _, err := a.roots(); err != nil || a.ca == "" {
		return "", err
	}
	pem, err := os.ReadFile(a.ca)
	if err != nil {
		return "", fmt.Errorf("reading the authority's certificate: %w", err)
	}
	return base64.StdEncoding.EncodeToString(pem), nil
}

// add adds a cluster, written CLUSTER=URL.
func (k *kubeconfig) add(arg, user, namespace string, server kubeServer) error {
	name, address, ok := strings.Cut(arg, "=")
	u, err := url.Parse(address)
	if !ok || name == "" || err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return usage{hinted{fmt.Errorf("%q is no cluster", arg), "write it CLUSTER=https://HOST[:PORT][/PATH], for example prod=https://gateway.example.com:6443/prod; clients send no token to http://"}}
	}
	for _, c := range k.Clusters {
		if c.Name == name {
			return usagef("cluster %s is there twice", name)
		}
	}
	server.Server = strings.TrimSuffix(address, "/")
	k.Clusters = append(k.Clusters, kubeCluster{name, server})
	c := kubeContext{Name: name}
	c.Context.Cluster, c.Context.User, c.Context.Namespace = name, user, namespace
	k.Contexts = append(k.Contexts, c)
	k.Current = k.Contexts[0].Name
	return nil
}

func newKubeCredential(a *app) *cobra.Command {
	var key agentKey
	c := &cobra.Command{
		Use: "credential [AGENT] --key FILE", Short: "Give a client of Kubernetes its token", Args: atMost("AGENT"),
		Long: `Prints a short-lived token as an ExecCredential of client.authentication.k8s.io:
it is what clients run that were given the configuration of exhibit kube config.
Each of them asks for one whenever it starts, so a token is kept until a minute
before it expires, in a file of your cache folder that only you can read
(~/.cache/exhibit): all of them work in one session. Another ticket, gateway or
key makes another token.

` + kubeTokens,
		Example: `  exhibit kube credential --key deployer.key --url https://gateway.example.com:8443`,
		RunE: func(cmd *cobra.Command, args []string) error {
			agent, err := tokenAgent(cmd, key.file, args)
			if err != nil {
				return err
			}
			kept, err := keptAt(a, &key, agent)
			if err != nil {
				return err
			}
			credential, ok := kept.read(time.Now())
			if !ok {
				if credential, err = a.credential(cmd.Context(), &key, agent); err != nil {
					return err
				}
				kept.write(credential)
			}
			return json.NewEncoder(a.out).Encode(credential)
		},
	}
	key.flags(c.Flags())
	return c
}

// execCredential is what a client reads
// (https://kubernetes.io/docs/reference/config-api/client-authentication.v1/).
type execCredential struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Status     struct {
		Expires time.Time `json:"expirationTimestamp"`
		Token   string    `json:"token"`
	} `json:"status"`
}

// credential asks for a token.
func (a *app) credential(ctx context.Context, key *agentKey, agent string) (e execCredential, err error) {
	r, err := key.request(agent)
	if err != nil {
		return e, err
	}
	e.APIVersion, e.Kind = execAPI, "ExecCredential"
	return e, a.ask(func(c *api.Client) error {
		asked := time.Now()
		t, err := c.IssueToken(ctx, r)
		if err != nil {
			return err
		}
		e.Status.Token = t.AccessToken
		life := time.Duration(t.ExpiresIn) * time.Second
		e.Status.Expires = asked.Add(life - min(early, life/4)).UTC().Truncate(time.Second)
		return nil
	})
}

// early is, at most, how long before a token expires its clients get another.
const early = time.Minute

// keptToken is the file in which a token is kept, "" for none.
type keptToken string

// keptAt is where the token of what is asked is kept. Its name depends on all
// that the token does.
func keptAt(a *app, key *agentKey, agent string) (keptToken, error) {
	secret, err := os.ReadFile(key.file)
	if err != nil {
		return "", fmt.Errorf("reading the agent's key: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", nil //nolint:nilerr // a user without a home keeps nothing
	}
	h := sha256.New()
	for _, s := range []string{string(secret), agent, key.audience, key.ticket, key.behalf, a.url, a.ca, a.socket, a.data, a.configFile} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return keptToken(filepath.Join(cache, "exhibit", "token-"+hex.EncodeToString(h.Sum(nil)[:16])+".json")), nil
}

// read returns the token that is kept, unless it is about to expire.
func (k keptToken) read(now time.Time) (e execCredential, ok bool) {
	info, err := os.Lstat(string(k))
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return e, false
	}
	b, err := os.ReadFile(string(k))
	if err != nil || json.Unmarshal(b, &e) != nil {
		return e, false
	}
	return e, e.Status.Token != "" && now.Before(e.Status.Expires)
}

// write keeps a token. Where that fails the next client asks for one itself.
func (k keptToken) write(e execCredential) {
	if k == "" || !time.Now().Before(e.Status.Expires) {
		return
	}
	b, err := json.Marshal(e)
	if err != nil {
		return
	}
	dir := filepath.Dir(string(k))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return
	}
	forgetOthers(dir, k)
	f, err := os.CreateTemp(dir, "token-*.new") // of mode 0600
	if err != nil {
		return
	}
	_, err = f.Write(b)
	if errors.Join(err, f.Close()) != nil || os.Rename(f.Name(), string(k)) != nil {
		os.Remove(f.Name())
	}
}

// forgetOthers removes tokens that nobody can use any more.
func forgetOthers(dir string, but keptToken) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		info, err := entry.Info()
		if path != string(but) && strings.HasPrefix(entry.Name(), "token-") && (errors.Is(err, fs.ErrNotExist) || err == nil && time.Since(info.ModTime()) > 24*time.Hour) {
			os.Remove(path)
		}
	}
}
