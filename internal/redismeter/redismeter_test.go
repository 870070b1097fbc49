package redismeter_test

import (
	"testing"
	"time"

	"helloapi/internal/backendtest"
	"helloapi/internal/meter"
	"helloapi/internal/redismeter"
)

func open(t testing.TB, url string) *redismeter.Limiter {
	t.Helper()
	l, err := redismeter.Open(url, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func TestLimiter(t *testing.T) {
	backendtest.TestLimiter(t, func(t testing.TB) []meter.Limiter {
		url := backendtest.RedisURL(t)
		return []meter.Limiter{open(t, url), open(t, url), open(t, url)}
	})
}
