package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"helloapi/internal/apikey"
)

type invokeCmd struct {
	output
	Name    string        `placeholder:"NAME" help:"Whom to greet. Default: the API's own, anonymous."`
	URL     string        `name:"url" default:"http://localhost:8080" placeholder:"URL" help:"Where the API is served."`
	Timeout time.Duration `default:"10s" placeholder:"TIME" help:"How long to wait for the answer."`
}

// keyVariable is where invoke takes the key from: not from a flag, which
// everyone on the machine can see.
const keyVariable = "HELLOAPI_KEY"

// An invokedInfo is an answer, as it is shown.
type invokedInfo struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"` // those that tell about limits, and the request's id
	Body    json.RawMessage   `json:"body"`
}

func (c *invokeCmd) Run(p *program) error {
	u, err := c.endpoint()
	if err != nil {
		return err
	}
	key, err := readKey(p)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(p.ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	req.Header.Set(apikey.Header, key)
	client := &http.Client{
		Timeout:       c.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the key is not for others
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}

	if c.Output == "json" {
		shown := invokedInfo{Status: resp.StatusCode, Headers: map[string]string{}, Body: body}
		if !json.Valid(body) {
			shown.Body, _ = json.Marshal(string(body)) // a string can be
		}
		for _, h := range []string{"RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id"} {
			if v := resp.Header.Get(h); v != "" {
				shown.Headers[h] = v
			}
		}
		err = printJSON(p.stdout, shown)
	} else if resp.StatusCode == http.StatusOK {
		_, err = fmt.Fprintln(p.stdout, visible(string(body)))
	}
	return errors.Join(err, refusal(resp, body))
}

// endpoint returns the URL to get.
func (c *invokeCmd) endpoint() (string, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", errors.New("--url must be like https://api.example.com")
	}
	if path := strings.TrimSuffix(u.Path, "/"); !strings.HasSuffix(path, "/hello") {
		u.Path = path + "/hello"
	}
	if c.Name != "" {
		u.RawQuery = url.Values{"name": {c.Name}}.Encode()
	}
	return u.String(), nil
}

// readKey returns the key from the environment, or from standard input.
func readKey(p *program) (string, error) {
	key := p.getenv(keyVariable)
	if key == "" {
		var err error
		if key, err = p.readSecret(valuePrompt); err != nil {
			return "", fmt.Errorf("read the key: %w", err)
		}
	}
	if key = strings.TrimSpace(key); key == "" {
		return "", errors.New("the key is empty: set " + keyVariable + ", or write the key to standard input")
	}
	if strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", errors.New("what was given is no key: it must be one line of printable ASCII characters")
	}
	return key, nil
}

// refusal says what an answer means that is no greeting.
func refusal(resp *http.Response, body []byte) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	err := fmt.Errorf("answered %s: %s", resp.Status, strings.TrimSpace(string(body)))
	switch resp.StatusCode {
	case http.StatusForbidden:
		return errors.Join(err, errors.New("the key is unknown, disabled, expired or without a plan: `helloapi keys list` shows which"))
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if after := resp.Header.Get("Retry-After"); after != "" {
			return errors.Join(err, fmt.Errorf("try again in %s seconds", after))
		}
	}
	return err
}
