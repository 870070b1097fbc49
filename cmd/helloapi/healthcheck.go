package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"helloapi/internal/web"
)

type healthcheckCmd struct {
	output
	AdminAddr string        `setting:"" default:"127.0.0.1:8081" placeholder:"HOST:PORT" help:"Where the serving process has its internal listener."`
	Timeout   time.Duration `default:"3s" placeholder:"TIME" help:"How long to wait for the answer."`
}

func (c *healthcheckCmd) Run(p *program) error {
	addr, err := net.ResolveTCPAddr("tcp", c.AdminAddr)
	if err != nil {
		return fmt.Errorf("ADMIN_ADDR: %w", err)
	}
	ctx, cancel := context.WithTimeout(p.ctx, c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+localAddr(addr)+"/readyz", nil)
	if err != nil {
		return err
	}
	// No proxy of the environment, which may answer for a process that is gone,
	// and no redirect to elsewhere.
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("not serving: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return fmt.Errorf("not serving: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", strings.TrimSpace(string(body)))
	}
	var answer web.Message
	if err := json.Unmarshal(body, &answer); err != nil || answer.Message != "OK" {
		return fmt.Errorf("not serving: another program answers at ADMIN_ADDR (%s)", c.AdminAddr)
	}
	if c.Output == "json" {
		return printJSON(p.stdout, map[string]bool{"ready": true})
	}
	_, err = fmt.Fprintln(p.stdout, "ready")
	return err
}
