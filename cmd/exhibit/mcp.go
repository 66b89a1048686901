package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/internal/config"
	"github.com/exhibit-gateway/exhibit/internal/protocol/mcp"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

func newMCP(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "mcp", Short: "Tools of MCP servers", GroupID: groupRights, Args: known,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(newMCPTools(a))
	return c
}

func newMCPTools(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "tools RESOURCE", Short: "What tools a server defines, to be reviewed and accepted", Args: exactly("RESOURCE"),
		Long: `Asks a resource's server for its tools, as the gateway would, and prints each
definition with its digest, in the form in which the resource's configuration
accepts it. Read what each tool says it does before you paste its line: agents'
models are told the same words. Then put the configuration in force with exhibit
reload; the change is recorded with your name.

Run it on the gateway's machine, as its user: it reads the configuration and the
server's credential, and starts the server if the gateway does.`,
		Example: `  exhibit mcp tools files`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.loadConfig()
			if err != nil {
				return err
			}
			return a.mcpTools(cmd.Context(), c, args[0])
		},
	}
}

// fetchTimeout bounds how long a server may take to say what it has.
const fetchTimeout = 30 * time.Second

func (a *app) mcpTools(ctx context.Context, c *config.Config, resource string) error {
	i := slices.IndexFunc(c.Resources, func(r config.Resource) bool { return r.Name == resource })
	if i < 0 || c.Resources[i].Protocol != mcp.Name {
		return usagef("there is no resource %s of the protocol mcp", resource)
	}
	up, err := upstreamOf(c.Resources[i])
	if err != nil {
		return err
	}
	target, err := up()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	server := serverOf(c.Resources[i])
	tools, err := mcp.Fetch(ctx, server, target)
	if err != nil {
		return hinted{fmt.Errorf("asking %s for its tools: %w", resource, err), "exhibit doctor tells whether it can be reached"}
	}
	slices.SortStableFunc(tools, func(x, y *mcp.Tool) int { return cmp.Compare(x.Name, y.Name) })
	if a.json {
		return a.writeJSON(tools)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s of %s\ntools:\n", count(len(tools), "tool"), resource)
	for _, t := range tools {
		state := cmp.Or(t.Held(&server), "accepted")
		fmt.Fprintf(&b, "  # %s: %s\n", state, workpaper.Visible(string(t.Definition)))
		if t.Digest == "" {
			fmt.Fprintf(&b, "  # its name is %q: it can't be accepted\n", t.Name)
			continue
		}
		fmt.Fprintf(&b, "  %s: %s\n", t.Name, t.Digest)
	}
	_, err = fmt.Fprint(a.out, b.String())
	return err
}
