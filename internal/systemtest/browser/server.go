package browser

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Build builds the program into dir, and returns its path. Its flags are those
// of go build.
func Build(dir string, flags ...string) (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "helloapi").Output()
	if err != nil {
		return "", fmt.Errorf("find the module helloapi (run this in internal/systemtest): %w", err)
	}
	path := filepath.Join(dir, "helloapi")
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", path, "./cmd/helloapi")...)
	cmd.Dir = strings.TrimSpace(string(root))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
}

// A Server is a `helloapi serve`.
type Server struct {
	URL string // of the API, without a slash at the end

	dir    string
	cmd    *exec.Cmd
	exited chan error
}

var serving = regexp.MustCompile(`msg=serving addr=127\.0\.0\.1:(\d+) `)

// Serve runs the program in dir with the environment env, and waits until it
// serves. It is served at localhost.
func Serve(program, dir string, env ...string) (*Server, error) {
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s := &Server{dir: dir, cmd: exec.Command(program, "serve"), exited: make(chan error, 1)}
	s.cmd.Dir, s.cmd.Stderr = dir, log
	s.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0"}, env...)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.exited <- s.cmd.Wait() }()
	for range 600 {
		select {
		case err := <-s.exited:
			return nil, fmt.Errorf("it ended: %w\n%s", err, s.Log())
		case <-time.After(50 * time.Millisecond):
		}
		if m := serving.FindStringSubmatch(s.Log()); m != nil {
			s.URL = "http://localhost:" + m[1]
			return s, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("it does not serve:\n%s", s.Log()), s.Stop())
}

// Log is what the server logged.
func (s *Server) Log() string {
	log, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(log)
}

// Stop stops the server, and waits for it. It may be called again.
func (s *Server) Stop() error {
	if s.exited == nil {
		return nil
	}
	err := s.cmd.Process.Signal(syscall.SIGTERM)
	if err == nil {
		err = <-s.exited
	}
	s.exited = nil
	return err
}
