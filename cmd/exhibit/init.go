package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/internal/config"
	"github.com/exhibit-gateway/exhibit/internal/gateway"
	"github.com/exhibit-gateway/exhibit/internal/policy"
	"github.com/exhibit-gateway/exhibit/verify"
)

const initLong = `Makes what a new gateway needs, in a folder:

  exhibit.yaml  the configuration, commented
  policies/     an example role set, with tests
  data/         the data folder, with the gateway's keys
  trust.json    the log's public key, for auditors

Nothing is overwritten. Give trust.json to your auditor by a way of its own: it
is what they check packs against.`

// setup is the answers of init.
type setup struct {
	params config.Params
	dir    string
	email  string
	uid    string

	guardrails bool // the stricter of the example policies
}

func newInit(a *app) *cobra.Command {
	var s setup
	c := &cobra.Command{
		Use: "init [FOLDER]", Short: "Make configuration, keys and example policies of a new gateway", GroupID: groupGateway,
		Long: initLong, Args: atMost("FOLDER"),
		Example: `  exhibit init
  exhibit init /etc/exhibit --data /var/lib/exhibit --gateway gw1 \
    --organisation "Example Ltd" --origin evidence.example.com/gw1 \
    --person alice@example.com --resource orders --upstream db.example.com:5432 \
    --database orders --user exhibit --password-file /etc/exhibit/orders.password`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flag("config").Changed {
				return usagef("exhibit init writes FOLDER/exhibit.yaml; --config has no place here")
			}
			s.dir = "."
			if len(args) == 1 {
				s.dir = args[0]
			}
			return a.init(s)
		},
	}
	f := c.Flags()
	p := &s.params
	f.StringVar(&p.Gateway, "gateway", "gw1", "name of the gateway; stands in every record")
	f.StringVar(&p.Organisation, "organisation", "Example Ltd", "name as it shall appear on packs")
	f.StringVar(&p.Origin, "origin", "", "name of the log: a URL without scheme (default HOST/GATEWAY)")
	f.StringVar(&p.Person.ID, "person", "", "your id, like alice@example.com (default USER@HOST)")
	f.StringVar(&p.Person.Name, "person-name", "", "your name")
	f.StringVar(&s.email, "email", "", "your e-mail address, as in your client certificate")
	f.StringVar(&s.uid, "uid", "", "uid by which the admin socket knows you (default: your own)")
	f.StringVar(&p.Listen, "listen", "127.0.0.1:6433", "address for agents")
	f.StringVar(&p.Resource, "resource", "postgres", "name of the first resource; agents give it as database")
	f.StringVar(&p.Upstream.Address, "upstream", "127.0.0.1:5432", "its address")
	f.StringVar(&p.Upstream.Database, "database", "postgres", "its database")
	f.StringVar(&p.Upstream.User, "user", "exhibit", "the account that the gateway uses there")
	f.StringVar(&p.Upstream.Password.File, "password-file", "", "file with that account's password")
	f.StringVar(&p.Upstream.Password.Env, "password-env", "", "environment variable with that account's password")
	f.BoolVar(&s.guardrails, "guardrails", false, "write the example policies for production: approvals, limits, working hours, alerts")
	f.StringArrayVar(&p.Auditors, "auditor", nil, "age recipient of an auditor; may be repeated")
	return c
}

// init checks everything before it writes anything.
func (a *app) init(s setup) error {
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return fmt.Errorf("finding the folder: %w", err)
	}
	file, data := filepath.Join(dir, "exhibit.yaml"), filepath.Join(dir, "data")
	if a.data != "" {
		if data, err = filepath.Abs(a.data); err != nil {
			return fmt.Errorf("finding the data folder: %w", err)
		}
	}
	if err := s.complete(dir, data); err != nil {
		return err
	}
	text, err := config.Template(s.params)
	if err != nil {
		return err
	}
	c, err := config.Parse(file, text)
	if err != nil {
		return hinted{fmt.Errorf("these answers make no valid configuration:\n%w", err), "exhibit init --help shows the flags"}
	}
	trust := filepath.Join(dir, "trust.json")
	for _, path := range []string{file, trust, c.Policies, filepath.Join(data, "keystore")} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return hinted{fmt.Errorf("%s is there already", path), "nothing was changed: init only makes new gateways"}
		}
	}
	return a.write(s, c, file, trust, text)
}

func (a *app) write(s setup, c *config.Config, file, trust string, text []byte) error {
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	key, err := gateway.Init(c.Data, c.Log.Origin)
	if err != nil {
		return err
	}
	example := policy.Example()
	if s.guardrails {
		example = policy.Guardrails()
	}
	if err := policy.WriteExample(c.Policies, example); err != nil {
		return err
	}
	trusted, err := verify.NewTrustFile(key).Encode()
	if err != nil {
		return fmt.Errorf("writing the trust file: %w", err)
	}
	if err := writeNew(trust, trusted); err != nil {
		return err
	}
	if err := writeNew(file, text); err != nil {
		return err
	}
	a.say("Made the gateway %s:", c.Gateway)
	a.say("  %s  the configuration: read it, it is commented", file)
	a.say("  %s  example policies", c.Policies)
	a.say("  %s  data folder, with the gateway's keys", c.Data)
	a.say("  %s  the log's public key, for your auditor", trust)
	a.say("Next: exhibit doctor --config %s", file)
	return a.jsonOnly(map[string]string{"config": file, "policies": c.Policies, "data": c.Data, "trust": trust, "log_key": key})
}

func writeNew(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// complete answers what wasn't asked from the machine.
func (s *setup) complete(dir, data string) error {
	p := &s.params
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("asking for the host's name: %w", err)
	}
	p.Data, p.Policies = relative(dir, data), "policies"
	if file := &p.Upstream.Password.File; *file != "" {
		// On the command line a path starts here, in the file at its folder.
		if *file, err = filepath.Abs(*file); err != nil {
			return fmt.Errorf("finding the password's file: %w", err)
		}
		*file = relative(dir, *file)
	}
	if p.Origin == "" {
		p.Origin = host + "/" + p.Gateway
	}
	if p.Person.ID == "" {
		name := "operator"
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
		p.Person.ID = name + "@" + host
	}
	p.Person.Email = s.email
	uid := uint64(os.Getuid())
	if s.uid != "" {
		if uid, err = strconv.ParseUint(s.uid, 10, 32); err != nil {
			return usagef("--uid: %q is not a uid", s.uid)
		}
	}
	p.Person.UIDs = []uint32{uint32(uid)}
	return nil
}

// relative is path as seen from dir when it lies within, so that the folder can
// be moved.
func relative(dir, path string) string {
	if r, err := filepath.Rel(dir, path); err == nil && filepath.IsLocal(r) {
		return r
	}
	return path
}
