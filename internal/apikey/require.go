package apikey

import (
	"context"
	"errors"
	"net/http"
	"time"

	"helloapi/internal/web"
)

// Header is the request header that carries a key's value.
const Header = "X-Api-Key"

type contextKey struct{}

// From returns the key that the request of ctx was let in with, nil if it did
// not pass Require.
func From(ctx context.Context) *Key {
	k, _ := ctx.Value(contextKey{}).(*Key)
	return k
}

// NewContext returns a context whose request was let in with the key, for tests
// of handlers.
func NewContext(ctx context.Context, key *Key) context.Context {
	return context.WithValue(ctx, contextKey{}, key)
}

// Require lets in requests with a key that may call. To all others it answers
// 403 alike, whatever the reason, and notes the reason for the operator; where
// keys can't be asked it answers 503. Keys expire by the clock now. refused is
// told each reason, and the key if one is known.
func Require(keys Finder, now func() time.Time, refused func(key *Key, reason string)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			key, reason, err := find(r, keys, now)
			if err != nil {
				web.Fail(w, r, web.Unavailable(err))
				return
			}
			rec := web.RecordOf(r.Context())
			if key != nil {
				rec.Key = key.Name
				if key.Plan != nil {
					rec.Plan = key.Plan.Name
				}
			}
			if reason != "" {
				rec.Refused = reason
				refused(key, reason)
				web.Fail(w, r, &web.Error{Status: http.StatusForbidden, Type: "ForbiddenException"})
				return
			}
			next.ServeHTTP(w, r.WithContext(NewContext(r.Context(), key)))
		})
	}
}

// RefuseInClear answers 403 to requests that carry a key, known or not: what
// comes without TLS could be read on the way.
func RefuseInClear(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header[Header]) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		web.RecordOf(r.Context()).Refused = "key in clear"
		web.Fail(w, r, &web.Error{
			Status: http.StatusForbidden, Type: "ForbiddenException",
			Message: "This API key was sent without TLS and could be read on the way: rotate it, and use https",
		})
	})
}

// find returns the request's key if it is known, and why it is refused if it
// is; an error says that this could not be found out.
func find(r *http.Request, keys Finder, now func() time.Time) (key *Key, refused string, err error) {
	values := r.Header[Header]
	delete(r.Header, Header) // nothing behind here has any use for it
	switch {
	case len(values) == 0 || len(values) == 1 && values[0] == "":
		return nil, "no key", nil
	case len(values) > 1:
		return nil, "several keys", nil
	}
	value, err := Parse(values[0])
	if err != nil {
		return nil, "malformed key", nil
	}
	key, err = keys.Find(r.Context(), value.Hash())
	if errors.Is(err, ErrUnknown) {
		return nil, "unknown key", nil
	}
	if err != nil {
		return nil, "", err
	}
	return key, key.Refusal(now()), nil
}
