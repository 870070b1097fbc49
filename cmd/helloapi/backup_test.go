package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"helloapi/internal/backendtest"
)

// A backup that is made while requests are served, restored as the docs say,
// has what was answered before it began: keys, counts and usage.
func TestBackup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "data", "helloapi.db")
	url := "sqlite:" + path
	p := start(t, dir, "DATABASE_URL="+url)
	if err := os.WriteFile(path+".key", []byte("a key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, url, "plans", "create", "none")
	value := must(t, url, "keys", "create", "brooks", "--plan", "none", "--customer-id", "4711")
	greet := func(p *process) answer { return get(t, "http://"+p.addr+"/hello?name=ann", value) }
	for range 20 {
		if a := greet(p); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	waitFor(t, "the ledger", func() bool { return strings.Contains(must(t, url, "usage", "show", "brooks"), "20") })

	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a := greet(p); a.status != http.StatusOK {
					t.Errorf("while it is backed up: %d %s", a.status, a.body)
					return
				}
			}
		})
	}
	backup := filepath.Join(dir, "backup.db")
	must(t, url, "backup", backup)
	close(stop)
	load.Wait()
	for _, file := range []string{backup, backup + ".key"} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", file, info, err)
		}
	}
	before, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := helloapi(t, nil, "backup", backup, "--database-url", url); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("backup over another: %v", err)
	}
	if after, err := os.ReadFile(backup); err != nil || string(after) != string(before) {
		t.Errorf("a backup was written over (%v)", err)
	}

	// Restored beside what the lost one left behind.
	if err := p.stop(t); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm", ".key"} {
		if err := os.Remove(path + suffix); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{backup: path, backup + ".key": path + ".key"} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p = start(t, dir, "DATABASE_URL="+url)
	if p.stdout.String() != "" {
		t.Errorf("the first start's keys are made again:\n%s", p.stdout)
	}
	var count, used int64
	db := backendtest.SQL(t, url)
	if err := db.QueryRow(`SELECT count FROM greetings WHERE name = 'ann'`).Scan(&count); err != nil || count < 20 {
		t.Errorf("%d greetings (%v), want 20 or more", count, err)
	}
	if err := db.QueryRow(`SELECT sum(charged) FROM usage WHERE customer_id = '4711' AND plan = 'none'`).Scan(&used); err != nil || used < 20 {
		t.Errorf("%d units used (%v), want 20 or more", used, err)
	}
	if a := greet(p); a.status != http.StatusOK {
		t.Errorf("after it was restored: %d %s", a.status, a.body)
	}
	if key, err := os.ReadFile(path + ".key"); err != nil || string(key) != "a key\n" {
		t.Errorf("the key of the certificates: %q, %v", key, err)
	}

	for _, test := range []struct{ url, file, want string }{
		{"postgres://127.0.0.1/none", filepath.Join(dir, "pg"), "pg_dump"},
		{"sqlite:" + filepath.Join(dir, "none.db"), filepath.Join(dir, "none"), "there is no database"},
		{url, filepath.Join(dir, "no", "such", "folder"), "no such file"},
	} {
		if _, _, err := helloapi(t, nil, "backup", test.file, "--database-url", test.url); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("backup of %s to %s: %v, want %q", test.url, test.file, err, test.want)
		}
		if _, err := os.Stat(test.file + ".key"); err == nil {
			t.Errorf("a backup of %s that failed left a key", test.url)
		}
	}
}
