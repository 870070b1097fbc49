package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"helloapi/internal/backend"
	"helloapi/internal/certs"
)

type certsCmd struct {
	List   certsListCmd   `cmd:"" help:"List the certificates that were obtained by ACME, and what is wrong."`
	Renew  certsRenewCmd  `cmd:"" help:"Have a host's certificate obtained anew, however soon after the last attempt."`
	Forget certsForgetCmd `cmd:"" help:"Drop all certificates and accounts, as when the key they are sealed with is lost."`
}

type certsListCmd struct {
	database
	output
}

// A certInfo is a certificate as it is shown.
type certInfo struct {
	Host        string     `json:"host"`
	Directory   string     `json:"directory"`
	IssuedAt    *time.Time `json:"issuedAt,omitempty"`
	NotAfter    *time.Time `json:"notAfter,omitempty"`
	Renew       bool       `json:"renew"`
	Failures    int        `json:"failures"`
	LastError   string     `json:"lastError,omitempty"`
	NextAttempt *time.Time `json:"nextAttempt,omitempty"`
	Holder      string     `json:"holder,omitempty"`
}

func (c *certsListCmd) Run(p *program) error {
	return c.use(p, func(db backend.Database) error {
		states, now, err := db.Certs().States(p.ctx)
		if err != nil {
			return err
		}
		shown := make([]certInfo, 0, len(states))
		for _, s := range states {
			info := certInfo{
				Host: s.Name, Directory: s.Directory, IssuedAt: shownTime(s.IssuedAt), NotAfter: shownTime(s.NotAfter),
				Renew: s.Renew, Failures: s.Failures, LastError: s.LastError, Holder: s.Holder,
			}
			if s.NextAttempt.After(now) {
				info.NextAttempt = shownTime(s.NextAttempt)
			}
			shown = append(shown, info)
		}
		if c.Output == "json" {
			return printJSON(p.stdout, shown)
		}
		t := newTable(p.stdout, "HOST", "ENDS", "FAILURES", "NEXT ATTEMPT", "LEASE", "DIRECTORY", "LAST ERROR")
		for _, s := range shown {
			ends, next := "none yet", "when due"
			if s.NotAfter != nil {
				ends = s.NotAfter.Format(time.RFC3339)
			}
			if s.NextAttempt != nil && s.Failures > 0 {
				next = s.NextAttempt.Format(time.RFC3339)
			} else if s.Renew {
				next = "now"
			}
			t.row(s.Host, ends, strconv.Itoa(s.Failures), next, or(s.Holder, "-"), s.Directory, or(s.LastError, "-"))
		}
		return t.Flush()
	})
}

type certsRenewCmd struct {
	database
	output
	Host string `arg:"" help:"The host, as in TLS_DOMAINS."`
}

// A renewInfo is a host whose certificate will be ordered, as it is shown.
type renewInfo struct {
	Host  string `json:"host"`
	Renew bool   `json:"renew"`
}

func (c *certsRenewCmd) Run(p *program) error {
	hosts, err := certs.ParseHosts([]string{c.Host})
	if err != nil {
		return err
	}
	return c.use(p, func(db backend.Database) error {
		err := db.Certs().Renew(p.ctx, hosts[0])
		if errors.Is(err, certs.ErrNotFound) {
			return fmt.Errorf("no certificate of %q was ever ordered: `helloapi certs list` shows those there are", c.Host)
		} else if err != nil {
			return err
		}
		done := fmt.Sprintf("A serving replica orders a certificate for %s within 15 seconds; `helloapi certs list` shows how it went.", hosts[0])
		return c.printDone(p, done, renewInfo{hosts[0], true})
	})
}

type certsForgetCmd struct {
	database
	confirmation
}

// A forgottenInfo is how many certificates were dropped, as it is shown.
type forgottenInfo struct {
	Forgotten int `json:"forgotten"`
}

func (c *certsForgetCmd) Run(p *program) error {
	const what = "Drop all certificates and accounts for good. CAs limit how many are ordered: stop all replicas first."
	if ok, err := c.confirm(p, what); !ok {
		return err
	}
	return c.use(p, func(db backend.Database) error {
		n, err := db.Certs().Forget(p.ctx)
		if err != nil {
			return err
		}
		return c.printDone(p, fmt.Sprintf("Forgot %d certificates. Replicas that start order new ones.", n), forgottenInfo{n})
	})
}
