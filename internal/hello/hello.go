// Package hello is the endpoint: GET /hello greets a person, and says how many
// people of that name have been greeted. Everything else that a public API
// needs is middleware around it; see internal/api. To make an endpoint of your
// own, copy this package: docs/your-endpoint.md.
package hello

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"helloapi/internal/web"
)

// MaxName is the length of the longest name, in code points.
const MaxName = 256

// Greetings counts how often each name was greeted. It is safe for concurrent
// use.
type Greetings interface {
	// Greet counts one greeting of name and returns its number: 1 for the
	// first. When it returns without error the count is durable, and no other
	// call is given the same number, on any replica. After an error it may
	// have been counted or not, but nobody was given its number.
	Greet(ctx context.Context, name string) (int64, error)
}

// Handler answers GET /hello?name=NAME.
func Handler(greetings Greetings) web.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		query, err := web.Query(r)
		if err != nil {
			return err
		}
		name, err := parseName(query["name"])
		if err != nil {
			return err
		}
		n, err := greetings.Greet(r.Context(), name)
		if err != nil {
			return web.Unavailable(err)
		}
		return web.JSON(w, http.StatusOK, web.Message{Message: fmt.Sprintf("Hello %s #%d!", name, n)})
	}
}

// parseName returns the name to greet, "anonymous" if there is none. Of several
// the last one counts. Names are compared after Unicode NFC, so that one name
// written in two ways is still one.
func parseName(names []string) (string, error) {
	if len(names) == 0 || names[len(names)-1] == "" {
		return "anonymous", nil
	}
	return ParseName(names[len(names)-1])
}

// ParseName returns a name as it is counted, or a 400 that says why it can't be.
func ParseName(name string) (string, error) {
	if !utf8.ValidString(name) {
		return "", web.BadRequest("The name is not UTF-8")
	}
	name = norm.NFC.String(name)
	if strings.ContainsFunc(name, unicode.IsControl) {
		return "", web.BadRequest("The name has a control character")
	}
	if utf8.RuneCountInString(name) > MaxName {
		return "", web.BadRequest("The name has more than %d characters", MaxName)
	}
	return name, nil
}
