package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"helloapi/internal/hostname"
)

// CheckURL returns what is wrong with a database's URL.
func CheckURL(url string) error {
	_, err := parseURL(url)
	return err
}

// parseURL reads a database's URL. Neither its error nor one of connecting
// holds a part of the URL but a host, a file, or the name of an option: any
// other may be of a password that is not encoded. (The errors of pgx quote the
// URL, and what they take for a host.)
func parseURL(s string) (*pgxpool.Config, error) {
	bad := func(format string, args ...any) (*pgxpool.Config, error) {
		return nil, fmt.Errorf("DATABASE_URL must be like postgres://user:password@host:5432/database: "+format, args...)
	}
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		return bad("two slashes follow %s:", strings.ToLower(scheme[:strings.IndexByte(scheme+":", ':')]))
	}
	if err := hostname.CheckLogin(s); err != nil {
		return bad("%w", err)
	}
	cfg, err := pgxpool.ParseConfig(s)
	if err == nil {
		hosts := []string{cfg.ConnConfig.Host}
		for _, f := range cfg.ConnConfig.Fallbacks {
			hosts = append(hosts, f.Host)
		}
		for _, host := range hosts {
			if !hostname.Server(host) && !strings.HasPrefix(host, "/") { // a folder of Unix sockets
				return bad("a host is not a name, an address or a folder; %w", hostname.ErrEncode)
			}
		}
		return cfg, nil
	}

	before, query, _ := strings.Cut(rest, "?")
	if strings.Contains(before, " ") || !encoded(before) {
		return bad("%w", hostname.ErrEncode)
	}
	hosts := before[strings.IndexByte(before, '@')+1:]
	hosts, _, _ = strings.Cut(hosts, "/")
	for host := range strings.SplitSeq(hosts, ",") {
		_, port, found := strings.Cut(host[strings.LastIndexByte(host, ']')+1:], ":")
		if n, err := strconv.ParseUint(port, 10, 16); found && port != "" && (err != nil || n == 0) {
			return bad("a port is not a number from 1 to 65535; %w", hostname.ErrEncode)
		}
	}
	for option := range strings.SplitSeq(query, "&") {
		name, value, found := strings.Cut(option, "=")
		if option != "" && (!found || strings.Contains(value, "=") || strings.Contains(option, " ") || !encoded(option)) {
			return bad("what follows the question mark is not name=value&name=value; percent-encode a space as %%20 and %% as %%25")
		}
		var file *fs.PathError
		if _, err := pgxpool.ParseConfig("postgres://host/?" + option); errors.As(err, &file) {
			return bad("%s: %w", name, file)
		} else if err != nil {
			return bad("the option %s does not have the value given", name)
		}
	}
	var file *fs.PathError
	if errors.As(err, &file) {
		return bad("%w", file)
	}
	return bad("a host can't be read, or options do not go together (PostgreSQL's own variables, such as PGSSLMODE, count too)")
}

// encoded reports whether every % in s is followed by two hexadecimal digits.
func encoded(s string) bool {
	_, err := url.PathUnescape(s)
	return err == nil
}
