package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"helloapi/internal/certs"
)

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", path, nil)
	r.Host = "localhost"
	h.ServeHTTP(w, r)
	return w
}

func TestPage(t *testing.T) {
	var down error
	var list []certs.Status
	c := Config{
		Ready: func(context.Context) error { return down }, Draining: func() bool { return false }, Metrics: prometheus.NewRegistry(),
		Version: "v1.2.3", About: func() [][2]string { return [][2]string{{"Database", "SQLite, data/helloapi.db"}} },
	}
	w := get(New(c), "/")
	page := w.Body.String()
	for _, want := range []string{"v1.2.3", "SQLite, data/helloapi.db", "<th>Ready<td>yes", "<th>TLS<td>off"} {
		if !strings.Contains(page, want) {
			t.Errorf("without TLS: no %q in\n%s", want, page)
		}
	}
	if ct := w.Header().Get("Content-Type"); w.Code != 200 || ct != "text/html; charset=utf-8" {
		t.Errorf("%d %s", w.Code, ct)
	}

	c.Certificates = func() []certs.Status { return list }
	list = []certs.Status{
		{Host: "a.test", NotAfter: time.Now().Add(60*24*time.Hour + time.Minute), NextAttempt: time.Now().Add(30*24*time.Hour + time.Minute)},
		{Host: "b.test", Error: "the CA said <no>", Failures: 3, Holder: "replica/7", NextAttempt: time.Now().Add(90 * time.Minute)},
		{Host: "c.test", NotAfter: time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)},
	}
	down = errors.New("postgres is away")
	h := New(c)
	page = get(h, "/").Body.String()
	for _, want := range []string{
		"a.test", "in 60 days", "in 30 days", "b.test", "none yet", "the CA said &lt;no&gt;", "replica/7", "<td>3", "in 1h30m0s",
		"over since 2020-01-02T03:04:05Z", "no: postgres is away",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("with TLS: no %q in\n%s", want, page)
		}
	}
	if strings.Contains(page, "TLS<td>off") {
		t.Error("TLS is said to be off")
	}

	// A certificate that is missing, or bad, is no reason to send requests elsewhere.
	if w := get(h, "/readyz"); w.Code != 503 {
		t.Errorf("/readyz: %d", w.Code)
	}
	down = nil
	if w := get(h, "/readyz"); w.Code != 200 {
		t.Errorf("/readyz with bad certificates: %d %s", w.Code, w.Body)
	}
}
