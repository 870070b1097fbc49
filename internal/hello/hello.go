// Package hello is the endpoint: GET /hello greets a person, and says how many
// people of that name have been greeted. Everything else that a public API
// needs is middleware around it; see internal/api. To make an endpoint of your
// own, copy this package: docs/your-endpoint.md.
package hello

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"helloapi/internal/web"
)

// OpenAPI is the endpoint's part of the contract.
//
//go:embed openapi.json
var OpenAPI []byte

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

// Why a name cannot be greeted.
var (
	ErrNotUTF8 = errors.New("the name is not UTF-8")
	ErrControl = errors.New("the name has a control character")
	ErrTooLong = fmt.Errorf("the name has more than %d characters", MaxName)
)

// statuses are the answers to what goes wrong.
var statuses = web.Statuses{
	ErrNotUTF8: http.StatusBadRequest,
	ErrControl: http.StatusBadRequest,
	ErrTooLong: http.StatusBadRequest,
}

// Handler answers GET /hello?name=NAME.
func Handler(greetings Greetings) web.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		query, err := web.Query(r)
		if err != nil {
			return err
		}
		name, err := nameFrom(query["name"])
		if err != nil {
			return statuses.Answer(err)
		}
		n, err := greetings.Greet(r.Context(), name)
		if err != nil {
			return statuses.Answer(err)
		}
		return web.JSON(w, http.StatusOK, web.Message{Message: fmt.Sprintf("Hello %s #%d!", name, n)})
	}
}

// nameFrom returns the name to greet: the last of those given, or "anonymous".
func nameFrom(names []string) (string, error) {
	if len(names) == 0 || names[len(names)-1] == "" {
		return "anonymous", nil
	}
	return NormalizeName(names[len(names)-1])
}

// NormalizeName returns a name as it is counted: in Unicode NFC, so that one
// name written in two ways is still one.
func NormalizeName(name string) (string, error) {
	if !utf8.ValidString(name) {
		return "", ErrNotUTF8
	}
	name = norm.NFC.String(name)
	if strings.ContainsFunc(name, unicode.IsControl) {
		return "", ErrControl
	}
	if utf8.RuneCountInString(name) > MaxName {
		return "", ErrTooLong
	}
	return name, nil
}
