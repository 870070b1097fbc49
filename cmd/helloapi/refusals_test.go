package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"helloapi/internal/backendtest"
)

// What the program refused is recorded when it has stopped: every request, by
// the key's own reason.
func TestRefusals(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		must(t, url, "plans", "create", "three", "--limit", "3", "--period", "MONTH")
		must(t, url, "plans", "create", "slow", "--rate", "0.001", "--burst", "1")
		values := map[string]string{}
		for name, args := range map[string]string{"spent": "--plan three", "throttled": "--plan slow", "off": "--plan three", "old": "--plan three", "planless": "--plan three"} {
			values[name] = strings.TrimSpace(must(t, url, append([]string{"keys", "create", name}, strings.Fields(args)...)...))
		}
		must(t, url, "keys", "disable", "off")
		expired := any("2020-01-01T00:00:00Z")
		if strings.HasPrefix(url, "sqlite:") {
			expired = 1577836800000
		}
		backendtest.Exec(t, url, `UPDATE api_keys SET expires_at = $1 WHERE name = 'old'`, expired)
		backendtest.Exec(t, url, `UPDATE api_keys SET plan = NULL WHERE name = 'planless'`)

		p := start(t, t.TempDir(), "DATABASE_URL="+url)
		for _, key := range []string{values["spent"], values["throttled"], values["off"], values["old"], values["planless"], "", "short", "a-value-that-nobody-has-1234"} {
			for range 5 {
				req, err := http.NewRequest(http.MethodGet, "http://"+p.addr+"/hello", nil)
				if err != nil {
					t.Fatal(err)
				}
				if key != "" {
					req.Header.Set("x-api-key", key)
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
			}
		}
		if err := p.stop(t); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, line := range strings.Split(must(t, url, "usage", "show", "--refused", "-o", "csv"), "\n")[1:] {
			f := strings.Split(line, ",")
			got = append(got, fmt.Sprint(f[0], " ", f[3], " ", f[4]))
		}
		for _, want := range []string{
			" malformed key 5", " no key 5", " unknown key 5", "off disabled 5", "old expired 5", "planless no plan 5", "spent over quota 2", "throttled throttled 4",
		} {
			if n := strings.Count("\n"+strings.Join(got, "\n")+"\n", "\n"+want+"\n"); n != 1 {
				t.Errorf("%q is recorded %d times:\n%s", want, n, strings.Join(got, "\n"))
			}
		}
		if len(got) != 8 {
			t.Errorf("recorded:\n%s", strings.Join(got, "\n"))
		}
	})
}
