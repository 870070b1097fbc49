package web

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// A Record is what will be logged of a request, once, when it has been
// answered. Whoever learns something on the way fills it in. It holds no
// header, path or query of the request: people put keys there by mistake. (The
// id may be that of a proxy which is trusted.)
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
// its header is sent, so that f may still change the header. What was added
// last is called first, as with defer.
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

	outcomes atomic.Pointer[map[outcome]series] // replaced by a copy to add one
	adding   sync.Mutex
}

// An outcome is what requests are measured by. There are only so many.
type outcome struct {
	route  string
	status int
}

// A series is an outcome's part of the measurements, found once.
type series struct {
	requests prometheus.Counter
	duration prometheus.Observer
}

func (m *Metrics) series(o outcome) series {
	if s, ok := (*m.outcomes.Load())[o]; ok {
		return s
	}
	m.adding.Lock()
	defer m.adding.Unlock()
	s := series{m.requests.WithLabelValues(o.route, strconv.Itoa(o.status)), m.duration.WithLabelValues(o.route)}
	outcomes := maps.Clone(*m.outcomes.Load())
	outcomes[o] = s
	m.outcomes.Store(&outcomes)
	return s
}

// NewMetrics registers the measurements of requests with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
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
	m.outcomes.Store(&map[outcome]series{})
	return m
}

// An exchange is what Observe keeps of a request, in one piece: there is one
// for each. It is the request's context too.
type exchange struct {
	context.Context
	response
	rec      Record
	id       [1]string           // the value of the header
	onStatus [4]func(status int) // the room of rec.onStatus
}

// Value finds the record.
func (x *exchange) Value(key any) any {
	if key == (recordKey{}) {
		return &x.rec
	}
	return x.Context.Value(key)
}

// The values of headers that all answers have. Nobody may change them in place.
var (
	nosniff  = []string{"nosniff"}
	noStore  = []string{"no-store"}
	jsonType = []string{"application/json"}
)

// Observe is the outermost middleware. It gives each request its record and
// its X-Request-Id, sets the headers that every answer has, and at the end
// writes the record to log and counts it in m. Of requests that anybody can send
// in any number it logs samples, but counts each. What proxies say of a request is
// believed.
func Observe(log *slog.Logger, m *Metrics, proxies Proxies) func(http.Handler) http.Handler {
	samples := &sampler{seen: map[lineKind]*lines{}}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			begin := time.Now()
			m.inFlight.Inc()
			defer m.inFlight.Dec()

			x := &exchange{Context: r.Context()}
			x.rec.ID, x.rec.onStatus = proxies.requestID(r), x.onStatus[:0]
			if x.rec.ID == "" {
				x.rec.ID = rand.Text()
			}
			x.response = response{w, &x.rec}
			x.id[0] = x.rec.ID
			h := w.Header()
			h["X-Request-Id"] = x.id[:]
			h["X-Content-Type-Options"] = nosniff
			h["Cache-Control"] = noStore

			// Also when the connection is aborted by a panic.
			defer func() { m.done(x, log, samples, proxies, r, &x.rec, begin) }()
			next.ServeHTTP(&x.response, r.WithContext(x))
		})
	}
}

func (m *Metrics) done(ctx context.Context, log *slog.Logger, samples *sampler, proxies Proxies, r *http.Request, rec *Record, begin time.Time) {
	now := time.Now()
	d := now.Sub(begin)
	if rec.status == 0 {
		rec.status = http.StatusOK // as net/http does for a handler that wrote nothing
	}
	route := "" // unknown path
	if rctx := chi.RouteContext(ctx); rctx != nil {
		route = rctx.RoutePattern()
	}
	s := m.series(outcome{route, rec.status})
	s.requests.Inc()
	s.duration.Observe(d.Seconds())
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
	served := rec.Key != "" && rec.status < 400
	var unlogged int
	if bug := rec.status == http.StatusInternalServerError; !served && !bug {
		var sample bool
		if sample, unlogged = samples.take(lineKind{route, rec.status, rec.Refused}, now); !sample {
			return
		}
	}
	// By the handler itself: a Logger would look up where in the source it is called.
	record := slog.NewRecord(now, level, "request", 0)
	record.AddAttrs(
		slog.String("id", rec.ID),
		slog.String("method", method(r.Method)),
		slog.String("route", route),
		slog.Int("status", rec.status),
		slog.Duration("duration", d),
		slog.Int64("bytes", rec.bytes),
		slog.String("client", proxies.client(r)),
		unlessEmpty("key", rec.Key),
		unlessEmpty("plan", rec.Plan),
		unlessEmpty("refused", rec.Refused),
	)
	if rec.Err != nil {
		record.AddAttrs(slog.String("error", rec.Err.Error()))
	}
	if unlogged > 0 {
		record.AddAttrs(slog.Int("unlogged", unlogged))
	}
	_ = log.Handler().Handle(ctx, record) // nobody could be informed of its error
}

// unlessEmpty returns an attribute that is left out if value is "".
func unlessEmpty(key, value string) slog.Attr {
	if value == "" {
		return slog.Attr{}
	}
	return slog.String(key, value)
}

// linesPerSecond is how many lines of a kind are logged in a second, where they
// are sampled.
const linesPerSecond = 10

// A sampler bounds the log lines of requests that were not served for a key:
// each costs its sender less than the line costs us.
type sampler struct {
	mu   sync.Mutex
	seen map[lineKind]*lines // guarded by mu; has few: none of it is the client's to choose
}

type lineKind struct {
	route   string
	status  int
	refused string
}

// lines are those of a kind.
type lines struct {
	second   time.Time // when this second began
	logged   int       // in this second
	unlogged int       // since the last that was logged
}

// take reports whether to log a line of the kind, and how many like it were
// not logged before it.
func (s *sampler) take(kind lineKind, now time.Time) (ok bool, unlogged int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.seen[kind]
	if l == nil {
		l = new(lines)
		s.seen[kind] = l
	}
	if now.Sub(l.second) >= time.Second {
		l.second, l.logged = now, 0
	}
	if l.logged == linesPerSecond {
		l.unlogged++
		return false, 0
	}
	unlogged, l.unlogged = l.unlogged, 0
	l.logged++
	return true, unlogged
}

// A response notes what is answered, in the request's record.
type response struct {
	http.ResponseWriter
	rec *Record
}

func (w *response) WriteHeader(status int) {
	if status >= 200 && w.rec.status == 0 { // a 1xx is not yet the answer
		w.rec.status = status
		for _, f := range slices.Backward(w.rec.onStatus) {
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
	for _, known := range Methods {
		if m == known {
			return m
		}
	}
	return "other"
}

// Methods are the methods that HTTP defines.
var Methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
	http.MethodDelete, http.MethodOptions, http.MethodConnect, http.MethodTrace,
}
