package memmeter_test

import (
	"testing"

	"helloapi/internal/backendtest"
	"helloapi/internal/memmeter"
	"helloapi/internal/meter"
)

func TestLimiter(t *testing.T) {
	backendtest.TestLimiter(t, func(testing.TB) []meter.Limiter {
		return []meter.Limiter{memmeter.New()}
	})
}
