package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/exhibit-gateway/exhibit/evidence"
	"github.com/exhibit-gateway/exhibit/internal/alert"
	"github.com/exhibit-gateway/exhibit/internal/api"
	"github.com/exhibit-gateway/exhibit/internal/config"
	"github.com/exhibit-gateway/exhibit/workpaper"
)

func newAlert(a *app) *cobra.Command {
	return group(groupEvidence, "alert", "List alerts, and say what they were found to be", newAlertList(a), newAlertAck(a))
}

func newAlertList(a *app) *cobra.Command {
	var w window
	var all bool
	c := &cobra.Command{
		Use: "list", Short: "List alerts that nobody has acknowledged", Args: exactly(), Aliases: []string{"ls"},
		Long: `Lists the alerts that nobody has acknowledged, the newest last. --all lists the
others too, with who looked and what they found.

docs/guides/operator.md says what each rule looks for.`,
		Example: `  exhibit alert list
  exhibit alert list --all --from 2026-01-01`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := w.parse()
			if err != nil {
				return err
			}
			return a.ask(func(c *api.Client) error {
				list, err := c.Alerts(cmd.Context(), r, !all)
				if err != nil {
					return err
				}
				t := workpaper.Table{Name: "alerts", Columns: columns("alert", "time", "severity", "rule", "agent", "about", "text", "found to be", "by")}
				for _, x := range list {
					row := []string{x.ID, stamp(x.Time), x.Severity, x.Rule, x.Agent, x.Trigger, x.Text, "", ""}
					if ack := x.Acknowledged; ack != nil {
						row[7], row[8] = ack.Disposition, ack.By.Person.ID
					}
					t.Rows = append(t.Rows, row)
				}
				return a.show(list, t)
			})
		},
	}
	w.flags(c)
	c.Flags().BoolVar(&all, "all", false, "those that were acknowledged too")
	return c
}

func newAlertAck(a *app) *cobra.Command {
	var n api.NewAcknowledgement
	c := &cobra.Command{
		Use: "ack ALERT --as DISPOSITION", Short: "Say that you looked at an alert, and what it was", Args: exactly("ALERT"),
		Long: `Records that you looked at an alert, and what you found:

  expected        it was meant to happen
  false_positive  it isn't what the rule looks for
  incident        it is being dealt with; --incident says where

An alert is acknowledged once, and the record stands in packs.`,
		Example: `  exhibit alert ack gw1.3.118 --as expected --reason "load test of Tuesday"
  exhibit alert ack gw1.3.204 --as incident --incident INC-42`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if n.Disposition == "" {
				return usagef("%s needs --as: expected, false_positive or incident", cmd.CommandPath())
			}
			return a.ask(func(c *api.Client) error {
				out, err := c.AcknowledgeAlert(cmd.Context(), args[0], n)
				if err != nil {
					return err
				}
				a.say("Acknowledged %s (%s) as %s.", out.ID, out.Rule, out.Acknowledged.Disposition)
				return a.jsonOnly(out)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&n.Disposition, "as", "", "what it was: expected, false_positive or incident")
	f.StringVar(&n.Incident, "incident", "", "id of the incident, where it is kept")
	f.StringVar(&n.Reason, "reason", "", "stands in the record")
	a.complete(c, "as", cobra.FixedCompletions([]string{evidence.AlertExpected, evidence.AlertFalsePositive, evidence.AlertIncident}, cobra.ShellCompDirectiveNoFileComp))
	c.ValidArgsFunction = a.completions(openAlerts)
	return c
}

// openAlerts are the ids that can be acknowledged.
func openAlerts(ctx context.Context, c *api.Client) (ids []string, err error) {
	list, err := c.Alerts(ctx, api.Range{}, true)
	for _, x := range list {
		ids = append(ids, x.ID+"\t"+workpaper.Visible(x.Rule))
	}
	return ids, err
}

// alertsOf are those who are told of alerts.
func alertsOf(c config.Alerts) (list []alert.Target, err error) {
	for _, w := range c.Webhooks {
		u, err := url.Parse(w.URL)
		if err != nil {
			return nil, fmt.Errorf("alerts.webhooks: %w", err)
		}
		list = append(list, alert.Target{Name: "webhook " + u.Host, Least: w.Least, Sink: alert.Webhook(w.URL, headerOf(w.Header))})
	}
	for _, s := range c.Syslog {
		network, address, err := s.Split()
		if err != nil {
			return nil, fmt.Errorf("alerts.syslog: %w", err)
		}
		sink, err := alert.Syslog(network, address, &tls.Config{MinVersion: tls.VersionTLS12})
		if err != nil {
			return nil, fmt.Errorf("alerts.syslog: %w", err)
		}
		list = append(list, alert.Target{Name: "syslog " + address, Least: s.Least, Sink: sink})
	}
	return list, nil
}
