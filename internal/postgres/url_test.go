package postgres_test

import (
	"strings"
	"testing"

	"helloapi/internal/postgres"
)

func TestCheckURL(t *testing.T) {
	t.Parallel()
	const encode = "percent-encode what has a meaning in URLs"
	for url, want := range map[string]string{
		"postgres://u:secret@h/db":                                            "",
		"postgresql://u:se%40%2C%2Fcret@h:5432,i:1/db?sslmode=disable":        "",
		"postgres://u:secret,s:s!$&'()*+;=#@h/db":                             "",
		"postgres://u:secret@[::1]:1/db":                                      "",
		"postgres:///db?host=/run/postgresql":                                 "",
		"postgres://%2Frun%2Fpostgresql/db":                                   "",
		"postgres://project_db_1/db?pool_max_conns=4&application_name=x":      "",
		"postgres:u:secret@h/db":                                              "two slashes follow postgres:",
		"postgres://u:se@secret@h/db":                                         encode,
		"postgres://u:se@secret,secret@h/db":                                  encode,
		"postgres://u:se@secret/secret@h/db":                                  encode,
		"postgres://u:se@secret?secret@h/db":                                  encode,
		"postgres://u:12/secret@h/db":                                         encode,
		"postgres://secret:12/secret@h/db":                                    encode,
		"postgres://u:se?secret@h/db":                                         encode,
		"postgres://u:secret%zz@h/db":                                         encode,
		"postgres://u:secret secret@h/db":                                     encode,
		"postgres://u:secret@h secret/db":                                     encode,
		"postgres://u:secret@bücher/db":                                       encode,
		"postgres://u:secret@h:secret/db":                                     "a port is not",
		"postgres://u:secret@h:0/db":                                          "a port is not",
		"postgres://u:secret@h:1,i:65536/db":                                  "a port is not",
		"postgres://u:secret@h:1,i,j:2/db":                                    "",
		"postgres://u:secret@[::1/db":                                         "a port is not",
		"postgres://u:secret@h/db?secret":                                     "name=value",
		"postgres://u:secret@h/db?a=b=secret":                                 "name=value",
		"postgres://u:secret@h/db?options=-c secret":                          "name=value",
		"postgres://u:secret@h/db?connect_timeout=1&sslmode=secret":           "the option sslmode",
		"postgres://u:secret@h/db?pool_max_conns=secret":                      "the option pool_max_conns",
		"postgres://u:secret@h/db?sslmode=verify-ca&sslrootcert=/no/such.pem": "sslrootcert: open /no/such.pem",
		"postgres://u:secret@h/db?host=sec,ret@i":                             encode,
	} {
		err := postgres.CheckURL(url)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("CheckURL(%s): %v; want an error with %q, without a secret", url, err, want)
		}
	}
}

// Nothing of a password is in what is said of a URL, however it is written.
func FuzzCheckURL(f *testing.F) {
	for _, password := range []string{"p@ss", "p,ss", "p/ss", "12/ss", "p?a=b&ss", "p#ss", "p%ss", "p:ss", "p ss", "[::1]"} {
		f.Add(password)
	}
	f.Fuzz(func(t *testing.T, password string) {
		const secret = "Zq7"
		for _, url := range []string{
			"postgres://u:" + secret + password + secret + "@h:1/db",
			"postgres://u:" + password + secret + "@h:1,i:2/db?sslmode=disable",
		} {
			if err := postgres.CheckURL(url); err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%q: %v", url, err)
			}
		}
	})
}
