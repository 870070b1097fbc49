// Package idempotency lets a client repeat a request without doing the thing
// twice: the repeat gets the answer of the first. It follows
// draft-ietf-httpapi-idempotency-key-header.
package idempotency

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/database"
	"helloapi/internal/web"
)

// Header is the request header that says which requests are one.
const Header = "Idempotency-Key"

// MaxAnswer is how many bytes the body of an answer that is kept may have.
const MaxAnswer = 1 << 20

const (
	// maxValue is how many characters its value may have.
	maxValue = 255
	// kept is how long an answer is repeated.
	kept = 24 * time.Hour
	// margin is how long after the deadline of a request its claim still holds:
	// the time to store its answer.
	margin = 5 * time.Second
	// Every sweepEvery the answers that have expired are deleted, sweepBatch in
	// one statement.
	sweepEvery, sweepBatch = 10 * time.Minute, 1000
	// storeTimeout bounds a statement that is not of a request.
	storeTimeout = 5 * time.Second
)

// Answers keeps the answers to requests that have an Idempotency-Key, by the
// API key that calls. It is safe for concurrent use, also by several replicas
// on one database.
type Answers struct {
	db    *database.DB
	now   func() time.Time
	lease time.Duration
}

// New returns Answers in db. now is the clock of the database, the same on
// every replica. No request takes longer than requestTimeout.
func New(db *database.DB, now func() time.Time, requestTimeout time.Duration) *Answers {
	return &Answers{db: db, now: now, lease: requestTimeout + margin}
}

// An attempt is the first request with a value, while it is in flight. It
// belongs to the goroutine that serves the request.
type attempt struct {
	keyID, value string
	token        string // another one for each attempt with the same value
	kept         bool   // its answer is stored
}

type attemptKey struct{}

// A stored answer, or the claim of an attempt in flight where status is 0.
type stored struct {
	request               []byte // a hash of the request
	status                int
	contentType, location string
	body                  []byte
}

func (s *stored) columns() []any {
	return []any{&s.request, &s.status, &s.contentType, &s.location, &s.body}
}

// Asked reports whether a request has the Idempotency-Key, well-formed or not.
func Asked(r *http.Request) bool { return r.Header[Header] != nil }

// Claim lets the first request with a value through. A repeat gets the stored
// answer, 409 while the first is in flight, or 422 if it is another request.
// One without a well-formed value gets 400. An answer of 400 or above is not
// kept: such a request can be repeated. It stands behind apikey.Require and
// before what charges.
func (a *Answers) Claim(next http.Handler) http.Handler {
	return web.Handler(func(w http.ResponseWriter, r *http.Request) error {
		value, err := headerValue(r.Header)
		if err != nil {
			return err
		}
		body, err := web.Body(r)
		if err != nil {
			return err
		}
		try := &attempt{keyID: apikey.From(r.Context()).ID, value: value, token: rand.Text()}
		request := hash(r, body)
		first, err := a.claim(r.Context(), try, request)
		switch {
		case err != nil:
			return web.Unavailable(fmt.Errorf("idempotency: %w", err))
		case first == nil:
			defer a.release(r.Context(), try)
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), attemptKey{}, try)))
			return nil
		case !bytes.Equal(first.request, request):
			return &web.Error{Status: http.StatusUnprocessableEntity, Message: "This " + Header + " was used for another request: use a new one"}
		case first.status == 0:
			return &web.Error{Status: http.StatusConflict, Message: "The first request with this " + Header + " is in flight: repeat it later", RetryAfter: time.Second}
		}
		return first.write(w)
	})
}

// Keep stores the answer of a claimed request before the answer leaves. What
// the handler does through the database.DB of this Answers is one transaction
// with that: both are stored or neither. It stands behind Claim and what
// charges.
func (a *Answers) Keep(next http.Handler) http.Handler {
	return web.Handler(func(w http.ResponseWriter, r *http.Request) error {
		try := r.Context().Value(attemptKey{}).(*attempt)
		ctx, tx := a.db.Begin(r.Context())
		defer tx.Rollback()
		answer := &recorder{header: w.Header(), stored: stored{status: http.StatusOK}}
		next.ServeHTTP(answer, r.WithContext(ctx))
		if answer.status < 400 {
			if answer.tooLong {
				w.Header().Del("Location")
				return errTooLong
			}
			answer.contentType, answer.location = w.Header().Get("Content-Type"), w.Header().Get("Location")
			if err := a.keep(ctx, try, answer.stored); err != nil {
				return a.unanswered(w, err)
			}
			if err := tx.Commit(); err != nil {
				return a.unanswered(w, err)
			}
			try.kept = true
		}
		return answer.write(w)
	})
}

// unanswered drops the handler's answer for a 503.
func (a *Answers) unanswered(w http.ResponseWriter, err error) error {
	w.Header().Del("Location")
	return web.Unavailable(fmt.Errorf("idempotency: %w", err))
}

// claim notes that a request with the attempt's value is in flight and returns
// nil, or returns what the first with that value left.
func (a *Answers) claim(ctx context.Context, try *attempt, request []byte) (*stored, error) {
	for range 3 { // a row may expire, or be released, between the two statements
		now := a.now()
		_, err := database.Value[string](ctx, a.db, `
			INSERT INTO idempotency (key_id, value, request, token, expires) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (key_id, value) DO UPDATE SET
				request = excluded.request, token = excluded.token, expires = excluded.expires,
				status = 0, content_type = '', location = '', body = NULL
			WHERE idempotency.expires <= $6
			RETURNING token`,
			try.keyID, try.value, request, try.token, now.Add(a.lease).UnixMilli(), now.UnixMilli())
		if !errors.Is(err, database.ErrNone) {
			return nil, err
		}
		first, err := database.One(ctx, a.db, (*stored).columns, `
			SELECT request, status, content_type, location, body FROM idempotency
			WHERE key_id = $1 AND value = $2 AND expires > $3`, try.keyID, try.value, now.UnixMilli())
		if !errors.Is(err, database.ErrNone) {
			return &first, err
		}
	}
	return nil, errors.New("the claim changes as soon as it is read")
}

// keep stores an attempt's answer, unless the claim has expired and somebody
// else holds it.
func (a *Answers) keep(ctx context.Context, try *attempt, answer stored) error {
	n, err := a.db.Exec(ctx, `
		UPDATE idempotency SET status = $1, content_type = $2, location = $3, body = $4, expires = $5
		WHERE key_id = $6 AND value = $7 AND token = $8 AND status = 0`,
		answer.status, answer.contentType, answer.location, answer.body, a.now().Add(kept).UnixMilli(),
		try.keyID, try.value, try.token)
	if err == nil && n == 0 {
		err = errors.New("the request took longer than its claim holds")
	}
	return err
}

// release gives up an attempt's claim, unless its answer is stored: the request
// can be repeated at once. If that fails the claim expires.
func (a *Answers) release(ctx context.Context, try *attempt) {
	if try.kept {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	_, err := a.db.Exec(ctx, `DELETE FROM idempotency WHERE key_id = $1 AND value = $2 AND token = $3 AND status = 0`,
		try.keyID, try.value, try.token)
	if err != nil {
		web.RecordOf(ctx).Note(fmt.Errorf("idempotency: release: %w", err))
	}
}

// Run deletes what has expired, until ctx ends.
func (a *Answers) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.sweep(ctx)
		}
	}
}

// sweep deletes what has expired. What it fails for is deleted the next time.
func (a *Answers) sweep(ctx context.Context) {
	for n := int64(sweepBatch); n == sweepBatch; {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		n, _ = a.db.Exec(ctx, `
			DELETE FROM idempotency WHERE (key_id, value) IN (
				SELECT key_id, value FROM idempotency WHERE expires <= $1 ORDER BY expires LIMIT $2)`,
			a.now().UnixMilli(), sweepBatch)
		cancel()
	}
}

// headerValue returns the header's value. The draft has it
// in quotes (an Item of RFC 8941); most clients send it without.
func headerValue(h http.Header) (string, error) {
	values := h[Header]
	value := strings.Join(values, ",")
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	printable := !strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
	if len(values) > 1 || value == "" || len(value) > maxValue || !printable {
		return "", web.BadRequest("The %s must be one value of 1 to %d printable ASCII characters, such as a UUID", Header, maxValue)
	}
	return value, nil
}

// hash tells a request from another one with the same Idempotency-Key.
func hash(r *http.Request, body []byte) []byte {
	h := sha256.New()
	for _, part := range []string{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get("Content-Type")} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	h.Write(body)
	return h.Sum(nil)
}

// A recorder is a ResponseWriter that holds the answer back.
type recorder struct {
	header http.Header
	stored
	wrote   bool
	tooLong bool // more than MaxAnswer was written
}

var errTooLong = fmt.Errorf("idempotency: the answer has more than the %d bytes that can be kept: make it shorter, or the endpoint not Idempotent", MaxAnswer)

func (a *recorder) Header() http.Header { return a.header }

func (a *recorder) WriteHeader(status int) {
	if status >= 200 && !a.wrote { // a 1xx is not the answer
		a.status, a.wrote = status, true
	}
}

func (a *recorder) Write(b []byte) (int, error) {
	a.wrote = true
	if a.tooLong = a.tooLong || len(a.body)+len(b) > MaxAnswer; a.tooLong {
		return 0, errTooLong
	}
	a.body = append(a.body, b...)
	return len(b), nil
}

// write sends the answer.
func (s *stored) write(w http.ResponseWriter) error {
	if s.contentType != "" {
		w.Header().Set("Content-Type", s.contentType)
	}
	if s.location != "" {
		w.Header().Set("Location", s.location)
	}
	w.WriteHeader(s.status)
	if _, err := io.Copy(w, bytes.NewReader(s.body)); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}
