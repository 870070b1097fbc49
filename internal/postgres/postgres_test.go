package postgres_test

import (
	"testing"

	"helloapi/internal/backendtest"
)

func TestDatabase(t *testing.T) {
	backendtest.TestDatabase(t, backendtest.Postgres)
}
