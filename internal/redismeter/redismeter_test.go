package redismeter_test

import (
	"crypto/rand"
	"testing"
	"time"

	"helloapi/internal/backendtest"
	"helloapi/internal/limits"
	"helloapi/internal/redismeter"
)

func open(t testing.TB, url string) *redismeter.Counters {
	t.Helper()
	return openAs(t, url, rand.Text())
}

func openAs(t testing.TB, url, replica string) *redismeter.Counters {
	t.Helper()
	c, err := redismeter.Open(url, replica, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestCounters(t *testing.T) {
	backendtest.TestCounters(t, func(t testing.TB) []limits.Counters {
		url := backendtest.RedisURL(t)
		return []limits.Counters{open(t, url), open(t, url), open(t, url)}
	})
}
