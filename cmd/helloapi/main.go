// Helloapi is a self-hosted HTTP API with keys, usage plans and durable counts.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
	_ "time/tzdata" // plans name time zones, and a container has no files of them
	"unsafe"
)

func main() {
	// SIGHUP is for a terminal that is closed: it stops the process as SIGTERM
	// does, but not under nohup.
	stopSignals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		stopSignals = append(stopSignals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), stopSignals...)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	// To write to a pipe that nobody reads is an error like any other, also on
	// standard output and error, where it would end the process.
	signal.Ignore(syscall.SIGPIPE)

	err := run(ctx, hideSecrets(os.Args)[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		report(err)
		os.Exit(1)
	}
}

// secretFlags are the flags whose values may hold a secret.
var secretFlags = []string{"--database-url", "--redis-url", "--acme-eab-hmac-key", "--cert-encryption-key"}

// hideSecrets returns a copy of args, and overwrites the values of secretFlags
// in args itself. Where that is os.Args it is what other processes of the
// machine see of this one (/proc/PID/cmdline on Linux), and what pprof shows.
func hideSecrets(args []string) []string {
	copied := make([]string, len(args))
	for i, arg := range args {
		copied[i] = strings.Clone(arg)
	}
	for i, arg := range copied {
		name, value, ok := strings.Cut(arg, "=")
		switch {
		case !slices.Contains(secretFlags, name):
		case ok:
			overwrite(args[i][len(arg)-len(value):])
		case i+1 < len(args):
			overwrite(args[i+1])
		}
	}
	return copied
}

// overwrite writes over a string that is known not to be a constant.
func overwrite(s string) {
	b := unsafe.Slice(unsafe.StringData(s), len(s))
	for i := range b {
		b[i] = '*'
	}
}

// report prints err to standard error. It waits a second at most for somebody
// to read it.
func report(err error) {
	var b strings.Builder
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(&b, "helloapi:", visible(strings.TrimSuffix(line, "\n")))
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = io.WriteString(os.Stderr, b.String())
	}()
	select {
	case <-written:
	case <-time.After(time.Second):
	}
}
