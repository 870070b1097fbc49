package web

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// MaxBody is how many bytes the body of a request may have, unless its route
// sets another limit with LimitBody.
const MaxBody = 64 << 10

// byteOrderMark is U+FEFF in UTF-8. RFC 8259 forbids it at the start of JSON.
const byteOrderMark = "\xef\xbb\xbf"

// Decode reads the request's body, one JSON object or value, into v, which it
// matches by the rules of encoding/json/v2: names are compared exactly, and a
// name that v does not have, or that is there twice, is an error.
//
// The errors are answers: 413 where the body exceeds the limit of the route,
// 415 where it is not application/json, 408 where it does not arrive before the
// request's deadline, and 400, which names the field, where it is not what v
// expects. The content of v is undefined after an error.
func Decode(r *http.Request, v any) error {
	if err := requireJSON(r.Header); err != nil {
		return err
	}
	body, err := Body(r)
	switch {
	case err != nil:
		return err
	case len(body) == 0:
		return BadRequest("The body is empty: send a JSON object")
	case bytes.HasPrefix(body, []byte(byteOrderMark)):
		return BadRequest("The body starts with a byte order mark: send UTF-8 without one")
	case !utf8.Valid(body):
		return BadRequest("The body is not UTF-8")
	}
	if err := json.Unmarshal(body, v, json.RejectUnknownMembers(true)); err != nil {
		return describeJSON(err)
	}
	return nil
}

// Body reads the whole body of the request, and replaces it, so that it can be
// read again. Its errors are answers, as those of Decode. The size that the
// client announces is checked before anything is read.
func Body(r *http.Request) ([]byte, error) {
	if b, ok := r.Body.(*readBody); ok {
		return b.data, nil
	}
	limit := int64(MaxBody)
	if b, ok := r.Body.(limitedBody); ok {
		limit = b.limit
	}
	if r.ContentLength > limit {
		return nil, bodyTooLarge(limit)
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &Error{Status: http.StatusRequestTimeout, Message: "The body did not arrive in time", Err: err}
	case err != nil:
		return nil, &Error{Status: http.StatusBadRequest, Message: "The body ended early", Err: err}
	case int64(len(data)) > limit:
		return nil, bodyTooLarge(limit)
	}
	r.Body = &readBody{Reader: bytes.NewReader(data), data: data}
	return data, nil
}

// LimitBody sets how many bytes the body of a request may have.
func LimitBody(limit int64) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = limitedBody{r.Body, limit}
			next.ServeHTTP(w, r)
		})
	}
}

// A limitedBody is a body that Body reads to another limit than MaxBody.
type limitedBody struct {
	io.ReadCloser
	limit int64
}

// A readBody is a body that Body has read.
type readBody struct {
	io.Reader
	data []byte
}

func (*readBody) Close() error { return nil }

func bodyTooLarge(limit int64) error {
	return &Error{Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("The body has more than %d bytes", limit)}
}

// requireJSON returns a 415 unless the body is application/json in UTF-8 and
// not compressed.
func requireJSON(h http.Header) error {
	if e := h.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return &Error{Status: http.StatusUnsupportedMediaType, Message: "The body must not be compressed"}
	}
	mediaType, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		return &Error{Status: http.StatusUnsupportedMediaType, Message: "The Content-Type must be application/json"}
	}
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return &Error{Status: http.StatusUnsupportedMediaType, Message: "The charset must be UTF-8"}
	}
	return nil
}

// describeJSON returns the 400 for an error of json.Unmarshal. It repeats
// nothing of the body but the name of a field.
func describeJSON(err error) error {
	var semantic *json.SemanticError
	var syntax *jsontext.SyntacticError
	switch {
	case errors.As(err, &semantic) && semantic.Err == json.ErrUnknownName:
		return BadRequest("The field %s is not known", fieldName(semantic.JSONPointer))
	case errors.As(err, &semantic) && semantic.JSONPointer == "":
		return BadRequest("The body must be %s", kindName(semantic.GoType))
	case errors.As(err, &semantic):
		return BadRequest("The field %s must be %s", fieldName(semantic.JSONPointer), kindName(semantic.GoType))
	case errors.As(err, &syntax) && syntax.Err == jsontext.ErrDuplicateName:
		return BadRequest("The field %s is there twice", fieldName(syntax.JSONPointer))
	case errors.As(err, &syntax) && errors.Is(err, io.ErrUnexpectedEOF):
		return BadRequest("The body is not JSON: it ends too early")
	case errors.As(err, &syntax):
		return BadRequest("The body is not JSON: see byte %d", syntax.ByteOffset+1)
	}
	return &Error{Status: http.StatusBadRequest, Message: "The body is not what this endpoint expects", Err: err}
}

// maxFieldName bounds what of a client's field names is repeated to it.
const maxFieldName = 64

// fieldName quotes the field that p points at: "size", or "items/0/size".
func fieldName(p jsontext.Pointer) string {
	name := []rune(strings.TrimPrefix(string(p), "/"))
	if len(name) > maxFieldName {
		name = append(name[:maxFieldName], '…')
	}
	return fmt.Sprintf("%q", string(name))
}

// kindName says in JSON's words what a value of the type must be.
func kindName(t reflect.Type) string {
	if t == nil {
		return "of another type"
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("a whole number of at most %d bits", t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number of at most %d bits, not negative", t.Bits())
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	return "of another type"
}
