package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// confirmation are the flags of the commands that remove or replace something
// for good. They ask on a terminal, and take --yes elsewhere.
type confirmation struct {
	output
	Yes    bool `short:"y" help:"Do it without asking."`
	DryRun bool `help:"Say what would be done, and change nothing."`
}

// A dryRunInfo is what would have been done, as it is shown.
type dryRunInfo struct {
	DryRun bool   `json:"dryRun"`
	Text   string `json:"text"`
}

// errNothingChanged ends a command that a person decided against, or that found
// a mistake in a file.
var errNothingChanged = errors.New("nothing was changed")

// confirm says what is going to be done and reports whether to do it. An error
// says that a person is against it, or that there is none to ask.
func (c confirmation) confirm(p *program, what string) (bool, error) {
	if c.DryRun {
		if c.Output == "json" {
			return false, printJSON(p.stdout, dryRunInfo{true, what})
		}
		_, err := fmt.Fprintln(p.stdout, what, "Nothing was changed (--dry-run).")
		return false, err
	}
	if c.Yes {
		return true, nil
	}
	if !isTerminal(p.stdin) {
		return false, fmt.Errorf("%s Nobody can be asked here: give --yes to do it, or --dry-run to look", what)
	}
	fmt.Fprint(p.stderr, what, " Continue? [y/N] ")
	line, err := p.readLine()
	if err != nil {
		return false, errors.Join(err, errNothingChanged)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	}
	return false, errNothingChanged
}

// isTerminal reports whether a person is at the other end of a stream.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// readLine reads a line that a person types, and ends at the first Ctrl-C.
func (p *program) readLine() (string, error) {
	return p.await(func() (string, error) {
		line, err := bufio.NewReader(p.stdin).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return line, err
	})
}

// readSecret reads a line of standard input: typed by a person it is asked for,
// and not shown.
func (p *program) readSecret(prompt string) (string, error) {
	if !isTerminal(p.stdin) {
		b, err := io.ReadAll(io.LimitReader(p.stdin, 4096))
		return strings.TrimRight(string(b), "\r\n"), err
	}
	// The terminal stops showing what is typed before it is asked for, and shows
	// it again however this ends. It sends no signal then: Ctrl-C is a character.
	fd := int(p.stdin.(*os.File).Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return "", err
	}
	defer func() { _ = term.Restore(fd, state) }()
	asked := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{p.stdin, p.stderr}, "")
	return p.await(func() (string, error) {
		secret, err := asked.ReadPassword(prompt)
		if errors.Is(err, io.EOF) {
			err = errInterrupted
		}
		return secret, err
	})
}

// input returns standard input for a command that reads a file from it, which
// ends at the first Ctrl-C. On a terminal it says so to the person, who ends the
// file with Ctrl-D.
func (p *program) input() io.Reader {
	if isTerminal(p.stdin) {
		fmt.Fprintln(p.stderr, "Reading from the terminal. Ctrl-D on a line of its own ends it.")
	}
	return input{p}
}

// input is standard input that ends with the program's context.
type input struct{ p *program }

func (t input) Read(b []byte) (int, error) {
	text, err := t.p.await(func() (string, error) {
		read := make([]byte, len(b)) // b is the caller's again after an interruption
		n, err := t.p.stdin.Read(read)
		return string(read[:n]), err
	})
	return copy(b, text), err
}

// errInterrupted says that a person ended the command.
var errInterrupted = errors.New("interrupted")

// await returns what read does, or the end of the program's context if that is
// earlier: a terminal or a pipe can't be told to stop waiting.
func (p *program) await(read func() (string, error)) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := read()
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-p.ctx.Done():
		return "", errInterrupted
	}
}
