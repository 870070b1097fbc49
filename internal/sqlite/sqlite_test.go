package sqlite_test

import (
	"testing"

	"helloapi/internal/backendtest"
)

func TestDatabase(t *testing.T) {
	backendtest.TestDatabase(t, func(t testing.TB) string {
		url := backendtest.SQLite(t)
		backendtest.Migrate(t, url)
		return url
	})
}
