package backendtest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// PgBouncers returns the pgbouncer of this machine, by its version, and the one
// that TEST_PGBOUNCER names.
func PgBouncers(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, path := range []string{"pgbouncer", "/usr/sbin/pgbouncer", os.Getenv("TEST_PGBOUNCER")} {
		out, err := exec.Command(path, "--version").Output()
		if version, ok := strings.CutPrefix(strings.SplitN(string(out), "\n", 2)[0], "PgBouncer "); err == nil && ok {
			found[version] = path
		}
	}
	if len(found) == 0 {
		t.Fatal("pgbouncer is missing: run the tests with `make test`, which installs it")
	}
	return found
}

// NewPgBouncer starts a PgBouncer before the server of a database, and returns
// the database's URL through it. The settings are lines of pgbouncer.ini.
func NewPgBouncer(t testing.TB, path, database string, settings ...string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	dir := serverDir(t)
	port := freePort()
	writeServerFile(t, filepath.Join(dir, "users.txt"), fmt.Sprintf("%q %q\n", u.User.Username(), password))
	writeServerFile(t, filepath.Join(dir, "pgbouncer.ini"), fmt.Sprintf(`
[databases]
* = host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = plain
auth_file = %s/users.txt
%s
`, u.Hostname(), u.Port(), port, dir, strings.Join(settings, "\n")))
	cmd := exec.Command(path, filepath.Join(dir, "pgbouncer.ini"))
	runServer(t, cmd)
	u.Host = fmt.Sprint("127.0.0.1:", port)
	waitFor(t, "PgBouncer to listen", func() bool { return listens(u.Host) })
	return u.String()
}

// serverUser returns who runs servers that refuse to run as root; nil for this
// user.
func serverUser(t testing.TB) *syscall.Credential {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, _ := strconv.ParseUint(u.Uid, 10, 32)
			gid, _ := strconv.ParseUint(u.Gid, 10, 32)
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	t.Fatal("there is no user postgres or nobody to run servers as")
	return nil
}

// serverDir returns a directory for a server, which is removed at the end of
// the test.
func serverDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "helloapi-server")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	give(t, dir)
	return dir
}

func writeServerFile(t testing.TB, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	give(t, path)
}

// give lets the servers' user have a file.
func give(t testing.TB, path string) {
	t.Helper()
	if u := serverUser(t); u != nil {
		if err := os.Chown(path, int(u.Uid), int(u.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}

// FreeAddr returns an address of this machine that nobody listens on.
func FreeAddr() string { return fmt.Sprint("127.0.0.1:", freePort()) }

// ServerFile writes a file for a server to read, in a directory of its own that
// the server may write to.
func ServerFile(t testing.TB, name, data string) (path string) {
	t.Helper()
	path = filepath.Join(serverDir(t), name)
	writeServerFile(t, path, data)
	return path
}

// RunServer starts a program as a user that is not root, and kills it at the
// end of the test.
func RunServer(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name // not in the path of everybody
	}
	cmd := exec.Command(path, args...)
	runServer(t, cmd)
	return cmd
}

// runServer starts a server as a user that is not root, and kills it at the
// end of the test. If the test fails its output is logged.
func runServer(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	out := new(Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: serverUser(t), Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			lines := strings.Split(out.String(), "\n")
			t.Logf("%s:\n%s", filepath.Base(cmd.Path), strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	})
}

func listens(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
