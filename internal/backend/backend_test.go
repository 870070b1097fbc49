package backend_test

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	"helloapi/internal/backend"
	"helloapi/internal/backendtest"
)

func TestAPI(t *testing.T) {
	for name, test := range map[string]struct {
		replicas int
		fresh    func(testing.TB) backend.Config
	}{
		"SQLite": {1, func(t testing.TB) backend.Config {
			return backend.Config{DatabaseURL: backendtest.SQLite(t)}
		}},
		"PostgresRedis": {3, func(t testing.TB) backend.Config {
			return backend.Config{DatabaseURL: backendtest.Postgres(t), RedisURL: backendtest.RedisURL(t)}
		}},
		"Postgres": {2, func(t testing.TB) backend.Config {
			return backend.Config{DatabaseURL: backendtest.Postgres(t)}
		}},
	} {
		t.Run(name, func(t *testing.T) { backendtest.TestAPI(t, test.replicas, test.fresh) })
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cfg  backend.Config
		want string
	}{
		"no database":       {backend.Config{}, "must start with sqlite: or postgres://"},
		"another scheme":    {backend.Config{DatabaseURL: "mysql://u:secret@h/db"}, "must start with sqlite: or postgres://"},
		"SQLite in memory":  {backend.Config{DatabaseURL: "sqlite::memory:"}, "a file"},
		"SQLite with Redis": {backend.Config{DatabaseURL: "sqlite:x.db", RedisURL: "redis://:secret@h"}, "unset REDIS_URL"},
		"a bad Redis URL":   {backend.Config{DatabaseURL: "postgres://h/db", RedisURL: "http://:secret@h"}, "REDIS_URL must be like"},
		"a bad PostgreSQL":  {backend.Config{DatabaseURL: "postgres://u:secret@h:notaport/db"}, "DATABASE_URL must be like"},
	} {
		t.Run(name, func(t *testing.T) {
			test.cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
			b, err := backend.Open(t.Context(), test.cfg)
			if err == nil {
				b.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q, want one about %q without the secret", err, test.want)
			}
		})
	}
}

func TestSecondServeIsRefused(t *testing.T) {
	t.Parallel()
	cfg := backend.Config{DatabaseURL: backendtest.SQLite(t)}
	first, err := backend.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := backend.Open(t.Context(), cfg); err == nil {
		second.Close()
		t.Error("a second process may serve the file")
	} else if !strings.Contains(err.Error(), "another helloapi serves this file") {
		t.Error(err)
	}
	// Other commands may go on beside it.
	db, err := backend.OpenDatabase(t.Context(), cfg.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := backend.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("after the first has stopped: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
