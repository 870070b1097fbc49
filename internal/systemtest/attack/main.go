// Command attack runs clients that are slow or many against a helloapi of
// little memory and reports what that does to its good clients. It builds the
// program, serves SQLite with TLS in a container (or, without Docker, a process
// with GOMEMLIMIT), and prints one row for each attack.
//
//	go run ./attack                  every attack, in full: about 12 minutes
//	go run ./attack -binary FILE     of a program that is built already
//	go run ./attack idle headers     these attacks only
//
// `make test` runs each attack in a small and short form.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"
)

// A form is how long and how strong the attacks are.
type form struct {
	scale  float64       // of the number of connections
	quiet  time.Duration // measured before the attack
	attack time.Duration // measured under it
	after  time.Duration // until memory is measured again
	stall  float64       // the scale of the attack that goes on when the server is stopped
}

var full = form{scale: 1, quiet: 10 * time.Second, attack: 30 * time.Second, after: time.Minute, stall: 0.02}

func main() {
	attackIfAttacker()
	binary := flag.String("binary", "", "the `file` of the program; it is built by default")
	memory := flag.Int("memory", 256, "the memory of the server in `MiB`")
	docker := flag.Bool("docker", exec.Command("docker", "info").Run() == nil, "serve in a container")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *binary, *memory, *docker, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, stdout io.Writer, binary string, memory int, docker bool, names []string) error {
	dir, err := os.MkdirTemp("", "helloapi-attack")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if binary == "" {
		if binary, err = build(ctx, dir); err != nil {
			return err
		}
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ATTACK\tALIVE\tP99 QUIET\tP99 ATTACK\tGOOD\tFAILED\tRSS QUIET\tPEAK\tAFTER\tSTOP\tEXIT")
	var failed []error
	for _, a := range attacks {
		if len(names) > 0 && !slices.Contains(names, a.name) {
			continue
		}
		r, err := try(ctx, a, full, config{binary: binary, memory: memory, docker: docker, requestTimeout: 10 * time.Second, dir: filepath.Join(dir, a.name)})
		fmt.Fprintln(table, r)
		table.Flush()
		if err = errors.Join(err, r.check(memory, 0)); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", a.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// A result is what an attack did.
type result struct {
	name          string
	alive         bool
	quiet, under  measure
	rssQuiet      int // MiB
	peak, rssRest int
	stop          time.Duration // from SIGTERM, with the attack under way, to the end
	exit          error
}

func (r result) String() string {
	exit := "0"
	if r.exit != nil {
		exit = r.exit.Error()
	}
	return fmt.Sprintf("%s\t%v\t%v\t%v\t%d\t%d\t%d MiB\t%d MiB\t%d MiB\t%v\t%s", r.name, r.alive,
		r.quiet.p99().Round(100*time.Microsecond), r.under.p99().Round(100*time.Microsecond), len(r.under.took), r.under.failed,
		r.rssQuiet, r.peak, r.rssRest, r.stop.Round(100*time.Millisecond), exit)
}

// check returns what a server must not do under attack. A p99 of up to noise is
// good in any case.
func (r result) check(memory int, noise time.Duration) error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !r.alive {
		return errors.New("the server died")
	}
	if r.under.failed*100 > len(r.under.took) { // some may meet a connection that is closed for room
		wrong("%d good requests failed: %w", r.under.failed, r.under.err)
	}
	if quiet, under := r.quiet.p99(), r.under.p99(); under > max(3*quiet, noise) {
		wrong("the p99 of good requests rose from %v to %v, more than 3 times", quiet, under)
	}
	if r.peak > memory {
		wrong("it took %d MiB, more than %d", r.peak, memory)
	}
	if most := r.rssQuiet + (memory-r.rssQuiet)/2; r.rssRest > most {
		wrong("it kept %d MiB, more than %d", r.rssRest, most)
	}
	if r.exit != nil {
		wrong("it ended with %w", r.exit)
	}
	if r.stop > drainTimeout {
		wrong("it took %v to stop, more than DRAIN_TIMEOUT", r.stop)
	}
	return errors.Join(errs...)
}

// try starts a server, measures its good clients without and under the attack,
// lets it rest, and stops it under the attack.
func try(ctx context.Context, a attack, f form, c config) (r result, err error) {
	r.name = a.name
	c.descriptors = a.descriptors
	v, err := start(ctx, c)
	if err != nil {
		return r, err
	}
	defer v.kill()
	r.quiet = v.measure(ctx, f.quiet)
	r.rssQuiet = v.rss("VmRSS")

	end, err := a.begin(v, f.scale)
	if err != nil {
		return r, err
	}
	r.under = v.measure(ctx, f.attack)
	r.alive = v.alive()
	r.peak = v.rss("VmHWM")
	end()
	if !r.alive {
		return r, nil
	}
	for end := time.Now().Add(f.after); time.Now().Before(end) && ctx.Err() == nil; {
		v.measure(ctx, time.Second) // its clients stay
	}
	r.rssRest = v.rss("VmRSS")

	if end, err = a.begin(v, f.stall); err != nil {
		return r, err
	}
	defer end()
	time.Sleep(time.Second)
	begin := time.Now()
	r.exit = v.stop()
	r.stop = time.Since(begin)
	return r, nil
}
