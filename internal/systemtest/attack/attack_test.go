package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// short is each attack, small enough for `make test` and too large for 128 MiB
// if nothing bounded it.
var short = form{scale: 0.3, quiet: time.Second, attack: 3 * time.Second, after: 2 * time.Second, stall: 0.01}

// The p99 of good requests says little on a machine that runs other tests, so
// only what a person would notice fails.
const noise = time.Second

func TestMain(m *testing.M) {
	attackIfAttacker()
	os.Exit(m.Run())
}

func TestAttacks(t *testing.T) {
	dir := t.TempDir()
	binary, err := build(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			const memory = 128
			r, err := try(t.Context(), a, short, config{binary: binary, memory: memory, requestTimeout: 2 * time.Second, dir: filepath.Join(dir, a.name)})
			if err != nil {
				t.Fatal(err)
			}
			t.Log(r)
			if err := r.check(memory, noise); err != nil {
				t.Error(err)
			}
			if r.stop > 10*time.Second {
				t.Errorf("it took %v to stop; a request has 2 s, and its answer 1", r.stop)
			}
		})
	}
}
