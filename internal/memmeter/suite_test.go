package memmeter_test

import (
	"testing"

	"helloapi/internal/backendtest"
	"helloapi/internal/limits"
	"helloapi/internal/memmeter"
)

func TestCounters(t *testing.T) {
	backendtest.TestCounters(t, func(testing.TB) []limits.Counters {
		return []limits.Counters{memmeter.New()}
	})
}
