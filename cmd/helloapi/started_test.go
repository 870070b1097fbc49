package main

import (
	"strings"
	"testing"

	"helloapi/internal/backendtest"
)

// The start says what is served, and what a person may not have meant.
func TestStartSays(t *testing.T) {
	t.Parallel()
	postgres := backendtest.Postgres(t)
	must(t, postgres, "keys", "create", "testkey1", "--plan", "free")
	must(t, postgres, "keys", "create", "testkey2", "--plan", "paid")
	must(t, postgres, "keys", "disable", "testkey2")
	for name, test := range map[string]struct {
		env       []string
		says, not []string
	}{
		"embedded": {
			nil,
			[]string{`page=http://127.0.0.1:`, `database="SQLite, `, `limits="counted by this process alone"`, `plans="free: 5 a day, 5/s, burst 5; paid: 5000 a day, 100/s, burst 200"`, "origins=*"},
			[]string{"WARN", "pages of any site"},
		},
		"without pages": {[]string{"PAGES=off", "CORS_ALLOWED_ORIGINS=https://a.example,https://b.example"}, []string{`origins="https://a.example https://b.example"`}, []string{"page="}},
		"distributed": {
			[]string{"DATABASE_URL=" + postgres},
			[]string{"database=PostgreSQL", "no REDIS_URL", "pages of any site may call", "keys=testkey1\n"},
			[]string{"the clock of this machine"},
		},
		"one origin":  {[]string{"DATABASE_URL=" + postgres, "CORS_ALLOWED_ORIGINS=https://a.example"}, []string{"origins=https://a.example"}, []string{"pages of any site may call"}},
		"wrong clock": {[]string{"DATABASE_URL=" + postgres, clockOffset + "=-24h"}, []string{"the clock of this machine differs", "database_ahead=24h0m0"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, t.TempDir(), test.env...)
			if err := p.stop(t); err != nil {
				t.Error(err)
			}
			log := p.stderr.String()
			for _, want := range test.says {
				if !strings.Contains(log, want) {
					t.Errorf("it does not say %q:\n%s", want, log)
				}
			}
			for _, not := range test.not {
				if strings.Contains(log, not) {
					t.Errorf("it says %q:\n%s", not, log)
				}
			}
		})
	}
	p := launch(t, t.TempDir(), "LOG_LEVEL=warn")
	waitFor(t, "the warning", func() bool { return strings.Contains(p.stderr.String(), "requests are not logged") })
	if err := p.stop(t); err != nil {
		t.Error(err)
	}
}
