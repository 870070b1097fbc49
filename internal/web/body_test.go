package web

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type order struct {
	Text  string
	Size  int8
	Price float64
	Paid  bool
	Items []struct{ Name string }
}

// decodeServer answers what it decoded, as Go would write it.
func decodeServer(t *testing.T, middlewares ...func(http.Handler) http.Handler) *httptest.Server {
	t.Helper()
	var h http.Handler = Handler(func(w http.ResponseWriter, r *http.Request) error {
		var in order
		if err := Decode(r, &in); err != nil {
			return err
		}
		return JSON(w, http.StatusOK, Message{fmt.Sprintf("%+v", in)})
	})
	for _, m := range middlewares {
		h = m(h)
	}
	srv := httptest.NewServer(Observe(slog.New(slog.DiscardHandler), NewMetrics(prometheus.NewRegistry()), nil)(h))
	t.Cleanup(srv.Close)
	return srv
}

func TestDecode(t *testing.T) {
	t.Parallel()
	srv := decodeServer(t)
	text := func(n int) string { return `{"Text":"` + strings.Repeat("x", n-len(`{"Text":""}`)) + `"}` }
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(`{"Text":"a"}`))
	_ = z.Close()
	for name, test := range map[string]struct {
		body    string
		headers map[string]string // beside application/json
		status  int
		message string // of the answer; "" for any
	}{
		"all":                 {body: `{"Text":"a","Size":-3,"Price":1.5,"Paid":true,"Items":[{"Name":"b"}]}`, status: 200, message: "{Text:a Size:-3 Price:1.5 Paid:true Items:[{Name:b}]}"},
		"spaces":              {body: " \n{ }\t", status: 200, message: "{Text: Size:0 Price:0 Paid:false Items:[]}"},
		"charset":             {body: `{}`, headers: map[string]string{"Content-Type": "Application/JSON; charset=UTF-8"}, status: 200},
		"not ASCII":           {body: `{"Text":"é😀"}`, status: 200, message: "{Text:é😀 Size:0 Price:0 Paid:false Items:[]}"},
		"64 kB":               {body: text(MaxBody), status: 200},
		"one byte more":       {body: text(MaxBody + 1), status: 413, message: "The body has more than 65536 bytes"},
		"empty":               {body: "", status: 400, message: "The body is empty: send a JSON object"},
		"no type":             {body: `{}`, headers: map[string]string{"Content-Type": ""}, status: 415, message: "The Content-Type must be application/json"},
		"a form":              {body: `a=b`, headers: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, status: 415, message: "The Content-Type must be application/json"},
		"broken type":         {body: `{}`, headers: map[string]string{"Content-Type": "application/json; ="}, status: 415, message: "The Content-Type must be application/json"},
		"Latin-1":             {body: `{}`, headers: map[string]string{"Content-Type": "application/json; charset=latin1"}, status: 415, message: "The charset must be UTF-8"},
		"gzip":                {body: zipped.String(), headers: map[string]string{"Content-Encoding": "gzip"}, status: 415, message: "The body must not be compressed"},
		"byte order mark":     {body: byteOrderMark + `{}`, status: 400, message: "The body starts with a byte order mark: send UTF-8 without one"},
		"not UTF-8":           {body: "{\"Text\":\"\xff\"}", status: 400, message: "The body is not UTF-8"},
		"lone surrogate":      {body: `{"Text":"\ud83d"}`, status: 400},
		"NaN":                 {body: `{"Price":NaN}`, status: 400, message: "The body is not JSON: see byte 10"},
		"single quotes":       {body: `{'Text':'a'}`, status: 400, message: "The body is not JSON: see byte 2"},
		"cut short":           {body: `{"Text":"a`, status: 400, message: "The body is not JSON: it ends too early"},
		"trailing":            {body: `{} x`, status: 400, message: "The body is not JSON: see byte 4"},
		"two values":          {body: `{}{}`, status: 400},
		"unknown field":       {body: `{"Colour":"red"}`, status: 400, message: `The field "Colour" is not known`},
		"other case":          {body: `{"text":"a"}`, status: 400, message: `The field "text" is not known`},
		"unknown field below": {body: `{"Items":[{"Name":"a"},{"Size":1}]}`, status: 400, message: `The field "Items/1/Size" is not known`},
		"long field":          {body: `{"` + strings.Repeat("é", 300) + `":1}`, status: 400, message: `The field "` + strings.Repeat("é", maxFieldName) + `…" is not known`},
		"twice":               {body: `{"Text":"a","Text":"b"}`, status: 400, message: `The field "Text" is there twice`},
		"not a string":        {body: `{"Text":1}`, status: 400, message: `The field "Text" must be a string`},
		"not a number":        {body: `{"Price":"1"}`, status: 400, message: `The field "Price" must be a number`},
		"a fraction":          {body: `{"Size":1.5}`, status: 400, message: `The field "Size" must be a whole number of at most 8 bits`},
		"too large":           {body: `{"Size":300}`, status: 400, message: `The field "Size" must be a whole number of at most 8 bits`},
		"not a truth value":   {body: `{"Paid":"yes"}`, status: 400, message: `The field "Paid" must be true or false`},
		"not a list":          {body: `{"Items":{}}`, status: 400, message: `The field "Items" must be a list`},
		"a list":              {body: `[]`, status: 400, message: `The body must be an object`},
		"deep":                {body: `{"Items":` + strings.Repeat("[", 30000) + strings.Repeat("]", 30000) + "}", status: 400},
		"deep and unknown":    {body: `{"x":` + strings.Repeat("[", 30000) + strings.Repeat("]", 30000) + "}", status: 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, chunked := range []bool{false, true} {
				var body io.Reader = strings.NewReader(test.body)
				if chunked {
					body = io.MultiReader(body) // whose length is not known
				}
				r, err := http.NewRequest(http.MethodPost, srv.URL, body)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Content-Type", "application/json")
				for k, v := range test.headers {
					r.Header.Set(k, v)
					if v == "" {
						r.Header.Del(k)
					}
				}
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				got, message := readMessage(t, resp)
				if got != test.status || test.message != "" && message != test.message || message == "" {
					t.Errorf("chunked %v: answered %d %q, want %d %q", chunked, got, message, test.status, test.message)
				}
			}
		})
	}
}

func readMessage(t *testing.T, resp *http.Response) (int, string) {
	t.Helper()
	defer resp.Body.Close()
	var m Message
	if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
		t.Errorf("the answer %d is not a message: %v", resp.StatusCode, err)
	}
	return resp.StatusCode, m.Message
}

// What is refused by its header is refused before a byte of the body is read:
// also one that is never sent.
func TestDecodeReadsNothing(t *testing.T) {
	t.Parallel()
	srv := decodeServer(t)
	for name, test := range map[string]struct {
		header string
		status int
	}{
		"1 GB announced":               {"Content-Type: application/json\r\nContent-Length: 1000000000\r\n", 413},
		"1 GB announced, 100-continue": {"Content-Type: application/json\r\nContent-Length: 1000000000\r\nExpect: 100-continue\r\n", 413},
		"wrong type, 100-continue":     {"Content-Type: text/plain\r\nContent-Length: 10\r\nExpect: 100-continue\r\n", 415},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: a\r\n%s\r\n", test.header)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if status, message := readMessage(t, resp); status != test.status {
				t.Errorf("answered %d %q, want %d", status, message, test.status)
			}
		})
	}
}

// A client that waits for 100 Continue gets it where the body is wanted.
func TestDecodeContinue(t *testing.T) {
	t.Parallel()
	srv := decodeServer(t)
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}
	r, err := http.NewRequest(http.MethodPost, srv.URL, strings.NewReader(`{"Text":"a"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Expect", "100-continue")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	resp, err := client.Do(r.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	if status, message := readMessage(t, resp); status != http.StatusOK {
		t.Errorf("answered %d %q, want 200", status, message)
	}
}

func TestLimitBody(t *testing.T) {
	t.Parallel()
	srv := decodeServer(t, LimitBody(20))
	for body, want := range map[string]int{`{"Text":"12345678"}`: 200, `{"Text":"1234567890"}`: 413} {
		resp, err := http.Post(srv.URL, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if status, message := readMessage(t, resp); status != want {
			t.Errorf("%d bytes: answered %d %q, want %d", len(body), status, message, want)
		}
	}
}

// A body can be read by a middleware and again by the handler.
func TestBodyTwice(t *testing.T) {
	t.Parallel()
	srv := decodeServer(t, func(next http.Handler) http.Handler {
		return Handler(func(w http.ResponseWriter, r *http.Request) error {
			for range 2 {
				if b, err := Body(r); err != nil || string(b) != `{"Text":"a"}` {
					t.Errorf("Body: %q, %v", b, err)
				}
			}
			next.ServeHTTP(w, r)
			return nil
		})
	})
	resp, err := http.Post(srv.URL, "application/json", strings.NewReader(`{"Text":"a"}`))
	if err != nil {
		t.Fatal(err)
	}
	if status, message := readMessage(t, resp); status != 200 || !strings.HasPrefix(message, "{Text:a ") {
		t.Errorf("answered %d %q", status, message)
	}
}

func FuzzDecode(f *testing.F) {
	for _, body := range []string{`{}`, `{"Text":"a","Size":1}`, `{"Items":[{"Name":"a"}]}`, `[1e999]`, `{"Text":"\ud83d"}`, "\x00"} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
		var in order
		err := Decode(r, &in)
		if err == nil {
			return
		}
		var e *Error
		if !errors.As(err, &e) || e.Status != http.StatusBadRequest && e.Status != http.StatusRequestEntityTooLarge || e.Message == "" {
			t.Errorf("Decode(%q): %v, want a 400 or 413 with a message", body, err)
		}
	})
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	missing, taken := fmt.Errorf("there is no such note"), fmt.Errorf("the note is locked")
	s := Statuses{missing: http.StatusNotFound, taken: http.StatusConflict}
	for err, want := range map[error]Error{
		missing:                          {Status: 404, Message: "There is no such note"},
		fmt.Errorf("note 3: %w", taken):  {Status: 409, Message: "Note 3: the note is locked"},
		fmt.Errorf("connection refused"): {Status: 503},
	} {
		var e *Error
		if !errors.As(s.Answer(err), &e) || e.Status != want.Status || e.Message != want.Message {
			t.Errorf("Answer(%v) = %+v, want %+v", err, e, want)
		}
	}
}
