package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// startParams are the settings in the start packet: the ones that PgBouncer
// accepts there and keeps for each client, in every mode. All others are set
// after connecting.
var startParams = map[string]string{
	"client_encoding":             "UTF8",
	"datestyle":                   "ISO",
	"standard_conforming_strings": "on",
	"timezone":                    "UTC",
}

// pinned are the settings of our sessions that neither the server, the
// database, the role nor the URL changes. (Where synchronous_commit is
// remote_apply it stays: that promises more.)
var pinned = map[string]string{
	"default_transaction_deferrable": "off",
	"default_transaction_isolation":  "read committed",
	"default_transaction_read_only":  "off",
	"idle_session_timeout":           "0",
	"synchronous_commit":             "on",
	"transaction_timeout":            "0",
}

// A server is how to connect to a PostgreSQL, or to a pooler before it.
type server struct {
	pool     *pgxpool.Config   // without what depends on shared
	settings map[string]string // of sessions: those of the URL, and pinned
	timeouts map[string]string // of sessions, unless the URL has others
	execMode bool              // whether the URL chose how queries are sent
}

// newServer returns the server of a parsed URL.
func newServer(pool *pgxpool.Config, url string) *server {
	s := &server{
		pool: pool, settings: map[string]string{},
		timeouts: map[string]string{
			"statement_timeout": fmt.Sprint(flushTimeout.Milliseconds()),
			"lock_timeout":      fmt.Sprint(lockTimeout.Milliseconds()),
		},
		execMode: strings.Contains(url, "default_query_exec_mode"),
	}
	start := maps.Clone(startParams)
	start["application_name"] = "helloapi"
	for name, value := range pool.ConnConfig.RuntimeParams {
		switch name := strings.ToLower(name); {
		case startParams[name] != "":
		case name == "application_name" || name == "options":
			start[name] = value
		default:
			s.settings[name] = value
			delete(s.timeouts, name)
		}
	}
	maps.Copy(s.settings, pinned)
	pool.ConnConfig.RuntimeParams = start
	return s
}

// config returns how to connect. With shared set a pooler gives each
// transaction another session: then nothing is left in a session, neither
// settings nor prepared statements.
func (s *server) config(shared bool) *pgxpool.Config {
	c := s.pool.Copy()
	if shared && !s.execMode {
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	c.ConnConfig.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		if err := checkEncoding(conn, c.ConnConfig); err != nil {
			return err
		}
		if shared {
			return s.checkSettings(ctx, conn)
		}
		return s.set(ctx, conn)
	}
	return c
}

// reach connects, to find out whether a pooler shares sessions, and returns
// that and how to connect from then on.
func (s *server) reach(ctx context.Context) (cfg *pgxpool.Config, shared bool, err error) {
	conn, err := pgconn.ConnectConfig(ctx, &s.pool.ConnConfig.Config)
	if err != nil {
		return nil, false, err
	}
	defer conn.Close(ctx)
	if err := checkEncoding(conn, s.pool.ConnConfig); err != nil {
		return nil, false, err
	}
	shared, err = sharesSessions(ctx, conn, s.pool.ConnConfig)
	if err != nil {
		return nil, false, err
	}
	return s.config(shared), shared, nil
}

// A fitness is an error that says in full why a server can't be used, and what
// to do.
type fitness string

func (f fitness) Error() string { return string(f) }

func checkEncoding(conn *pgconn.PgConn, c *pgx.ConnConfig) error {
	if e := conn.ParameterStatus("server_encoding"); e != "" && e != "UTF8" {
		return fitness(fmt.Sprintf("database %q has the encoding %s, which can't hold every name: "+
			"make one with UTF8 (createdb -E UTF8 -T template0 NAME) and correct DATABASE_URL", c.Database, e))
	}
	return nil
}

// sharesSessions reports whether a pooler lets other clients use the session
// that conn has now, between two transactions of conn.
func sharesSessions(ctx context.Context, conn *pgconn.PgConn, c *pgx.ConnConfig) (bool, error) {
	pid, err := backendPID(ctx, conn, "")
	if err != nil {
		return false, err
	}
	if pid == conn.PID() {
		return false, nil // PostgreSQL itself
	}
	// A pooler's process id is of its own making. A second client tells the rest:
	// what its transaction gets is either not what conn has, always, or it is shared.
	config := c.Config.Copy()
	config.AfterConnect = nil
	other, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return false, err
	}
	defer func() {
		_, _ = other.Exec(ctx, "ROLLBACK").ReadAll() // else the pooler throws its session away
		_ = other.Close(ctx)
	}()
	others, err := backendPID(ctx, other, "")
	if err != nil {
		return false, err
	}
	for range 3 {
		held, err := backendPID(ctx, other, "BEGIN;")
		var e *pgconn.PgError
		if errors.As(err, &e) && e.Code == protocolViolation {
			return false, fitness(fmt.Sprintf("the pooler at %s:%d allows no transactions (%s): set pool_mode = session or transaction, or connect to PostgreSQL itself",
				c.Host, c.Port, e.Message))
		}
		if err != nil {
			return false, err
		}
		if held == pid || held != others {
			return true, nil
		}
		if again, err := backendPID(ctx, conn, ""); err != nil || again != pid {
			return again != pid, err
		}
		if _, err := other.Exec(ctx, "ROLLBACK").ReadAll(); err != nil {
			return false, err
		}
		if others, err = backendPID(ctx, other, ""); err != nil || others != held {
			return others != held, err
		}
	}
	return false, nil
}

// backendPID runs a statement, if any, and returns the process that the
// connection is served by.
func backendPID(ctx context.Context, conn *pgconn.PgConn, statement string) (uint32, error) {
	results, err := conn.Exec(ctx, statement+"SELECT pg_backend_pid()").ReadAll()
	if err != nil {
		return 0, err
	}
	last := results[len(results)-1]
	if len(last.Rows) != 1 {
		return 0, errors.New("pg_backend_pid() returned nothing")
	}
	pid, err := strconv.ParseUint(string(last.Rows[0][0]), 10, 32)
	return uint32(pid), err
}

// schema is the schema that has our tables: the one that the search path leads
// to, else public, else any; in a new database where the search path begins.
const schema = `coalesce(
	(SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relname = 'api_key_values' AND c.relkind IN ('r', 'p')
	ORDER BY array_position(current_schemas(false), n.nspname) NULLS LAST, n.nspname <> 'public', n.nspname LIMIT 1),
	current_schema(), 'public')`

// set makes the session ours, whatever the server, the database and the role
// have as defaults.
func (s *server) set(ctx context.Context, conn *pgconn.PgConn) error {
	settings := maps.Clone(s.settings)
	maps.Copy(settings, s.timeouts)
	stmt := `SELECT set_config(n, v, false) FROM ` + values(settings) + `
		WHERE current_setting(n, true) IS NOT NULL AND NOT (n = 'synchronous_commit' AND current_setting(n) = 'remote_apply');`
	if settings["search_path"] == "" {
		stmt += `SELECT set_config('search_path', quote_ident(` + schema + `), false)`
	}
	_, err := conn.Exec(ctx, stmt).ReadAll()
	if err != nil {
		return fmt.Errorf("choose the settings of a session: %w", err)
	}
	return nil
}

// checkSettings returns an error if the settings that a shared session has are
// not ours. Timeouts may differ: requests have deadlines of their own.
func (s *server) checkSettings(ctx context.Context, conn *pgconn.PgConn) error {
	// set_config returns a value as PostgreSQL writes it; here it lasts for the statement.
	results, err := conn.Exec(ctx, `SELECT n, v, current_setting(n), set_config(n, v, true) FROM `+values(s.settings)+`
		WHERE current_setting(n, true) IS NOT NULL`).ReadAll()
	if err != nil {
		return fmt.Errorf("read the settings of a session: %w", err)
	}
	for _, row := range results[0].Rows {
		name, value, is, want := string(row[0]), string(row[1]), string(row[2]), string(row[3])
		if is == want || name == "synchronous_commit" && is == "remote_apply" {
			continue
		}
		return fitness(fmt.Sprintf("PostgreSQL has %s = %s for this user, helloapi needs %s, and a pooler in transaction mode keeps no settings: "+
			"run ALTER ROLE … SET %[1]s = '%[4]s' and RECONNECT in the pooler's console, or use pool_mode = session", name, is, want, value))
	}
	return nil
}

// values returns settings as a table of names and values.
func values(settings map[string]string) string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	var rows []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		rows = append(rows, "("+quote(name)+","+quote(settings[name])+")")
	}
	return "(VALUES " + strings.Join(rows, ",") + ") AS s (n, v)"
}
