package web

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// A Record is what will be logged of a request, once, when it has been
// answered. Whoever learns something on the way fills it in. It holds no
// header, path or query of the request: people put keys there by mistake.
//
// It belongs to the goroutine that serves the request.
type Record struct {
	ID      string // the answer's X-Request-Id
	Key     string // the API key's name
	Plan    string // the name of its plan
	Refused string // why the request was refused, where the answer does not tell
	Err     error  // what went wrong; see Note

	status   int
	bytes    int64
	onStatus []func(status int)
}

type recordKey struct{}

// RecordOf returns the record of the request that ctx belongs to. Outside of
// one it returns a record that nobody reads.
func RecordOf(ctx context.Context) *Record {
	if rec, ok := ctx.Value(recordKey{}).(*Record); ok {
		return rec
	}
	return new(Record)
}

// OnStatus has f called when the status of the answer is known and before
// its header is sent, so that f may still change the header.
func (rec *Record) OnStatus(f func(status int)) {
	rec.onStatus = append(rec.onStatus, f)
}

// Note adds err to what went wrong.
func (rec *Record) Note(err error) { rec.Err = errors.Join(rec.Err, err) }

// Metrics measures requests.
type Metrics struct {
	requests *prometheus.CounterVec
	refused  *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

// NewMetrics registers the measurements of requests with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	return &Metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "helloapi_requests_total",
			Help: "Requests answered, by route and status.",
		}, []string{"route", "status"}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "helloapi_refused_total",
			Help: "Requests refused, by reason: the answer to the client tells less.",
		}, []string{"reason"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "helloapi_request_duration_seconds",
			Help:    "Time from the first byte of a request to the last of its answer, by route.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10},
		}, []string{"route"}),
		inFlight: f.NewGauge(prometheus.GaugeOpts{
			Name: "helloapi_requests_in_flight",
			Help: "Requests being served now.",
		}),
	}
}

// Observe is the outermost middleware. It gives each request its record and
// its X-Request-Id, sets the headers that every answer has, and at the end
// writes the record to log and counts it in m.
func Observe(log *slog.Logger, m *Metrics) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			begin := time.Now()
			m.inFlight.Inc()
			defer m.inFlight.Dec()

			rec := &Record{ID: rand.Text()}
			h := w.Header()
			h.Set("X-Request-Id", rec.ID)
			h.Set("X-Content-Type-Options", "nosniff")
			h.Set("Cache-Control", "no-store")

			ctx := context.WithValue(r.Context(), recordKey{}, rec)
			// Also when the connection is aborted by a panic.
			defer func() { m.done(ctx, log, r, rec, time.Since(begin)) }()
			next.ServeHTTP(&response{w, rec}, r.WithContext(ctx))
		})
	}
}

func (m *Metrics) done(ctx context.Context, log *slog.Logger, r *http.Request, rec *Record, d time.Duration) {
	if rec.status == 0 {
		rec.status = http.StatusOK // as net/http does for a handler that wrote nothing
	}
	route := "" // unknown path
	if rctx := chi.RouteContext(ctx); rctx != nil {
		route = rctx.RoutePattern()
	}
	m.requests.WithLabelValues(route, strconv.Itoa(rec.status)).Inc()
	m.duration.WithLabelValues(route).Observe(d.Seconds())
	if rec.Refused != "" {
		m.refused.WithLabelValues(rec.Refused).Inc()
	}

	level := slog.LevelInfo
	if rec.status >= 500 {
		level = slog.LevelError
	}
	if !log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs,
		slog.String("id", rec.ID),
		slog.String("method", method(r.Method)),
		slog.String("route", route),
		slog.Int("status", rec.status),
		slog.Duration("duration", d),
		slog.Int64("bytes", rec.bytes),
		slog.String("remote", r.RemoteAddr),
	)
	for _, a := range []slog.Attr{
		slog.String("key", rec.Key),
		slog.String("plan", rec.Plan),
		slog.String("refused", rec.Refused),
	} {
		if a.Value.String() != "" {
			attrs = append(attrs, a)
		}
	}
	if rec.Err != nil {
		attrs = append(attrs, slog.String("error", rec.Err.Error()))
	}
	log.LogAttrs(ctx, level, "request", attrs...)
}

// A response notes what is answered, in the request's record.
type response struct {
	http.ResponseWriter
	rec *Record
}

func (w *response) WriteHeader(status int) {
	if status >= 200 && w.rec.status == 0 { // a 1xx is not yet the answer
		w.rec.status = status
		for _, f := range w.rec.onStatus {
			f(status)
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(b []byte) (int, error) {
	if w.rec.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(b)
	w.rec.bytes += int64(n)
	return n, err
}

// FlushError lets http.ResponseController flush, with the status noted.
func (w *response) FlushError() error {
	if w.rec.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController find the rest.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// method keeps a label and a log field from holding whatever a client sends.
func method(m string) string {
	for _, known := range methods {
		if m == known {
			return m
		}
	}
	return "other"
}

var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
	http.MethodDelete, http.MethodOptions, http.MethodConnect, http.MethodTrace,
}
