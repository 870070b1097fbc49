package backend_test

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"helloapi/internal/apikey"
	"helloapi/internal/backend"
	"helloapi/internal/backendtest"
	"helloapi/internal/plan"
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

// What one process serves is the file, whatever it is called.
func TestSecondServeIsRefused(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	name := func(n string) string { return filepath.Join(dir, n) }
	if err := os.Mkdir(name("data"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, link := range [][2]string{
		{"data", "folder"},
		{"data/helloapi.db", "link.db"}, // before there is a file: it is made where the link points
		{"link.db", "link of a link.db"},
	} {
		if err := os.Symlink(link[0], name(link[1])); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"link.db", "data/helloapi.db", "data/../data/./helloapi.db", "folder/helloapi.db", "link of a link.db"}

	first, err := backend.Open(t.Context(), backend.Config{DatabaseURL: "sqlite:" + name("link.db")})
	if err != nil {
		t.Fatal(err)
	}
	if file, _ := first.File(); file != name("data/helloapi.db") {
		t.Errorf("the file is %s; its name is data/helloapi.db", file)
	}
	refused := func(when string) {
		t.Helper()
		for _, n := range names {
			if second, err := backend.Open(t.Context(), backend.Config{DatabaseURL: "sqlite:" + name(n)}); err == nil {
				second.Close()
				t.Errorf("%s: a second process may serve the file as %s", when, n)
			} else if !strings.Contains(err.Error(), "another helloapi serves this file") {
				t.Errorf("%s: %s: %v", when, n, err)
			}
		}
	}
	refused("while it serves")
	// Other commands work beside it, under any of its names.
	for _, n := range names {
		db, err := backend.OpenDatabase(t.Context(), "sqlite:"+name(n))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.CreateKey(t.Context(), apikey.Key{Name: n, Plan: &plan.Plan{Name: "free"}, Enabled: true}, apikey.Generate()); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if _, err := first.Key(t.Context(), n); err != nil {
			t.Errorf("what was written as %s: %v", n, err)
		}
	}
	refused("after other commands")
	if runtime.GOOS == "linux" { // elsewhere a file beside the database is locked
		found, err := os.ReadDir(name("data"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range found {
			switch e.Name() {
			case "helloapi.db", "helloapi.db-wal", "helloapi.db-shm": // SQLite's
			default:
				t.Errorf("the lock is in %s, which somebody may clean away", e.Name())
			}
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := backend.Open(t.Context(), backend.Config{DatabaseURL: "sqlite:" + name("data/helloapi.db")})
	if err != nil {
		t.Fatalf("after the first has stopped: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// Under each name of a hard link SQLite would keep a log of its own.
func TestHardLinksAreRefused(t *testing.T) {
	t.Parallel()
	url := backendtest.SQLite(t)
	file := strings.TrimPrefix(url, "sqlite:")
	backendtest.Migrate(t, url)
	if err := os.Link(file, file+".copy"); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{url, url + ".copy"} {
		for what, open := range map[string]func() error{
			"serve":          func() error { _, err := backend.Open(t.Context(), backend.Config{DatabaseURL: u}); return err },
			"keys":           func() error { _, err := backend.OpenDatabase(t.Context(), u); return err },
			"migrate up":     func() error { _, err := backend.Migrate(t.Context(), u); return err },
			"migrate status": func() error { _, _, err := backend.SchemaVersions(t.Context(), u); return err },
		} {
			if err := open(); err == nil || !strings.Contains(err.Error(), "2 names (hard links)") {
				t.Errorf("%s on %s: %v", what, u, err)
			}
		}
	}
	if err := os.Remove(file + ".copy"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := backend.SchemaVersions(t.Context(), url); err != nil {
		t.Errorf("with one name: %v", err)
	}
}
