// Package web is the frame around every endpoint: handlers that return errors,
// the one place that turns an error into an answer, and one log record and one
// measurement for each request.
package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// An Error is a failure with the answer it deserves. Message is for the
// client; Err, the cause, is for the log only.
type Error struct {
	Status     int           // the HTTP status, 400 or above
	Message    string        // the answer's "message"; "" is the status' own text
	Type       string        // the X-Amzn-ErrorType header, if not ""
	RetryAfter time.Duration // the Retry-After header, in whole seconds rounded up, if not 0
	Err        error         // the cause, may be nil
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%d %s: %v", e.Status, e.message(), e.Err)
	}
	return fmt.Sprintf("%d %s", e.Status, e.message())
}

func (e *Error) Unwrap() error { return e.Err }

func (e *Error) message() string {
	if e.Message == "" {
		return http.StatusText(e.Status)
	}
	return e.Message
}

// BadRequest is a 400 that tells the client what is wrong.
func BadRequest(format string, args ...any) error {
	return &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}

// NotFound is a 404 that says what is not there.
func NotFound(format string, args ...any) error {
	return &Error{Status: http.StatusNotFound, Message: fmt.Sprintf(format, args...)}
}

// Conflict is a 409 that says what stands in the way.
func Conflict(format string, args ...any) error {
	return &Error{Status: http.StatusConflict, Message: fmt.Sprintf(format, args...)}
}

// Unavailable is a 503 that asks the client to try again in a second. It is
// the answer where a store failed or there is too much to do.
func Unavailable(err error) error {
	return &Error{Status: http.StatusServiceUnavailable, RetryAfter: time.Second, Err: err}
}

// Statuses are the answers to the errors of a domain package: an error's text,
// as a sentence, is the answer's message. A handler has one table.
type Statuses map[error]int

// Answer returns the answer to err: as the table says for an error that it has,
// or that wraps one that it has; 503 for any other, which is a store's.
func (s Statuses) Answer(err error) error {
	for known, status := range s {
		if errors.Is(err, known) {
			return &Error{Status: status, Message: sentence(err.Error())}
		}
	}
	return Unavailable(err)
}

// sentence begins an error's text with a capital letter.
func sentence(text string) string {
	first, n := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + text[n:]
}

// A Handler answers a request, or returns the error that says how to: an
// *Error as it says, a deadline that passed as 503, anything else as 500. An
// error after the answer has begun can only be logged.
type Handler func(w http.ResponseWriter, r *http.Request) error

// ServeHTTP calls h and answers for it if it failed.
func (h Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h(w, r); err != nil {
		Fail(w, r, err)
	}
}

// Fail answers r with err. It is the only place that does. Where the answer has
// begun already it is only noted.
func Fail(w http.ResponseWriter, r *http.Request, err error) {
	rec := RecordOf(r.Context())
	if rec.status != 0 {
		rec.Note(err)
		return
	}
	var e *Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.DeadlineExceeded):
		errors.As(Unavailable(err), &e)
	default:
		e = &Error{Status: http.StatusInternalServerError, Err: err}
	}
	rec.Note(e.Err)
	if e.Type != "" {
		w.Header().Set("X-Amzn-ErrorType", e.Type)
	}
	if e.RetryAfter != 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(Seconds(e.RetryAfter), 10))
	}
	if err := JSON(w, e.Status, Message{e.message()}); err != nil {
		rec.Note(err)
	}
}

// Seconds rounds d up to whole seconds, at least 1, as Retry-After wants it.
func Seconds(d time.Duration) int64 {
	return max(1, int64(math.Ceil(d.Seconds())))
}

// Query returns the parameters of the request's query, or a 400 if it does not
// parse. (The Query of url.URL leaves out what does not.)
func Query(r *http.Request) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, BadRequest("The query does not parse: percent-encode what is special in a URL, and separate parameters by &")
	}
	return values, nil
}

// A Message is the body of most answers.
type Message struct {
	Message string `json:"message"`
}

// JSON answers with v: without a newline at the end, and not escaped for HTML,
// since it is none. It fails only if v can't be encoded or the client is gone.
func JSON(w http.ResponseWriter, status int, v any) error {
	body := encoders.Get().(*encoder)
	defer body.release()
	if err := body.json.Encode(v); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	b := bytes.TrimSuffix(body.Bytes(), []byte("\n"))
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	w.WriteHeader(status)
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// An encoder encodes to its buffer. It is used again.
type encoder struct {
	bytes.Buffer
	json *json.Encoder
}

var encoders = sync.Pool{New: func() any {
	e := new(encoder)
	e.json = json.NewEncoder(&e.Buffer)
	e.json.SetEscapeHTML(false)
	return e
}}

// release makes e available again, unless it holds much memory.
func (e *encoder) release() {
	if e.Cap() <= 4<<10 {
		e.Reset()
		encoders.Put(e)
	}
}

// Created answers 201 with v, and says where it can be read: location is the
// path of a route.
func Created(w http.ResponseWriter, location string, v any) error {
	w.Header().Set("Location", location)
	return JSON(w, http.StatusCreated, v)
}

// NoContent answers 204, which has no body.
func NoContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}
