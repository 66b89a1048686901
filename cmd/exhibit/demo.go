package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/internal/demo"
)

func newDemo(a *app) *cobra.Command {
	var folder string
	c := &cobra.Command{
		Use: "demo", Short: "Play a day of two agents on a real PostgreSQL", GroupID: groupGateway, Args: exactly(),
		Long: `Starts a PostgreSQL and a gateway in a folder of their own and works as two agents
would: reads, a write under a ticket, a prepared statement, COPY, a forbidden
DROP inside a transaction, requests to a service over HTTP, a tool of an MCP
server, a failed login, and kill -9 of the gateway under a running statement. Then it asks the three questions, makes a pack, verifies it,
alters it and shows the verifier finding that.

It needs PostgreSQL's server, psql, pgbench and curl (Debian: apt-get install
postgresql curl), uses loopback only, takes less than two minutes, keeps its folder
and exits with 0 only if everything held.`,
		Example: `  exhibit demo
  exhibit demo --folder ./demo`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if folder == "" {
				var err error
				if folder, err = os.MkdirTemp("", "exhibit-demo-"); err != nil {
					return fmt.Errorf("making a folder: %w", err)
				}
				// PostgreSQL runs as another user when root plays.
				if err := os.Chmod(folder, 0o755); err != nil {
					return fmt.Errorf("making a folder: %w", err)
				}
			}
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("finding this program: %w", err)
			}
			return demo.Run(cmd.Context(), demo.Config{Program: program, Folder: folder, Out: a.out})
		},
	}
	c.Flags().StringVar(&folder, "folder", "", "where to play; kept (default: a new temporary folder)")
	return c
}
