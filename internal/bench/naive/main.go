// Naive is the same API as a good developer writes it in a day: chi, keys in
// memory for ten seconds, redis_rate for the throttle, a script for the quota,
// an upsert for the count, and each request makes these round trips for itself.
// `make bench` measures helloapi beside it.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/go-chi/cors"
	"github.com/go-redis/redis_rate/v10"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"
)

const schema = `
	CREATE TABLE IF NOT EXISTS keys (
		hash   bytea PRIMARY KEY,
		id     text NOT NULL,
		rate   integer NOT NULL,
		burst  integer NOT NULL,
		quota  bigint NOT NULL
	);
	CREATE TABLE IF NOT EXISTS greetings (
		name   text COLLATE "C" PRIMARY KEY,
		count  bigint NOT NULL
	) WITH (fillfactor = 50);`

const keyTTL = 10 * time.Second

var chargeQuota = redis.NewScript(`
	local used = tonumber(redis.call('GET', KEYS[1]) or '0')
	if used >= tonumber(ARGV[1]) then return -1 end
	used = redis.call('INCR', KEYS[1])
	if used == 1 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
	return used`)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "naive:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	cfg.MaxConns = 16
	db, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.Exec(ctx, schema); err != nil {
		return err
	}
	opts, err := redis.ParseURL(os.Getenv("REDIS_URL"))
	if err != nil {
		return err
	}
	opts.PoolSize = 50 * runtime.GOMAXPROCS(0)
	rdb := redis.NewClient(opts)
	defer rdb.Close()

	s := &server{db: db, rdb: rdb, limiter: redis_rate.NewLimiter(rdb)}
	r := chi.NewRouter()
	r.Use(
		middleware.RequestID,
		logRequests(slog.New(slog.NewTextHandler(os.Stderr, nil))),
		middleware.Recoverer,
		cors.Handler(cors.Options{AllowedOrigins: []string{"*"}, AllowedHeaders: []string{"*"}}),
		middleware.Timeout(10*time.Second),
	)
	r.With(s.requireKey, s.throttle, s.charge).Get("/hello", s.hello)
	r.Handle("/metrics", promhttp.Handler())

	srv := &http.Server{Addr: os.Getenv("ADDR"), Handler: r, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return srv.Shutdown(ctx)
	}
}

type server struct {
	db      *pgxpool.Pool
	rdb     *redis.Client
	limiter *redis_rate.Limiter
	keys    sync.Map // from the hash of a value to its key
}

type key struct {
	id          string
	rate, burst int
	quota       int64
	until       time.Time // when it is read again
}

type contextKey struct{}

var errNoKey = errors.New("no such key")

func (s *server) find(ctx context.Context, value string) (*key, error) {
	hash := sha256.Sum256([]byte(value))
	if k, ok := s.keys.Load(hash); ok && time.Now().Before(k.(*key).until) {
		return k.(*key), nil
	}
	k := &key{until: time.Now().Add(keyTTL)}
	err := s.db.QueryRow(ctx, `SELECT id, rate, burst, quota FROM keys WHERE hash = $1`, hash[:]).Scan(&k.id, &k.rate, &k.burst, &k.quota)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errNoKey
	}
	if err != nil {
		return nil, err
	}
	s.keys.Store(hash, k)
	return k, nil
}

func (s *server) requireKey(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k, err := s.find(r.Context(), r.Header.Get("X-Api-Key"))
		switch {
		case errors.Is(err, errNoKey):
			answer(w, http.StatusForbidden, "Forbidden")
		case err != nil:
			unavailable(w, r, err)
		default:
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, k)))
		}
	})
}

func (s *server) throttle(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k := r.Context().Value(contextKey{}).(*key)
		res, err := s.limiter.Allow(r.Context(), k.id, redis_rate.Limit{Rate: k.rate, Burst: k.burst, Period: time.Second})
		switch {
		case err != nil:
			unavailable(w, r, err)
		case res.Allowed == 0:
			w.Header().Set("Retry-After", strconv.Itoa(max(1, int(res.RetryAfter.Seconds()))))
			answer(w, http.StatusTooManyRequests, "Too Many Requests")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// charge takes a unit of the day's quota, and gives it back if the request fails.
func (s *server) charge(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k := r.Context().Value(contextKey{}).(*key)
		counter := "quota:" + k.id + ":" + time.Now().UTC().Format(time.DateOnly)
		used, err := chargeQuota.Run(r.Context(), s.rdb, []string{counter}, k.quota, 48*60*60).Int64()
		switch {
		case err != nil:
			unavailable(w, r, err)
			return
		case used < 0:
			answer(w, http.StatusTooManyRequests, "Limit Exceeded")
			return
		}
		w.Header().Set("RateLimit", fmt.Sprintf(`"quota";r=%d`, k.quota-used))
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(ww, r)
		if ww.Status() >= 400 {
			if err := s.rdb.Decr(r.Context(), counter).Err(); err != nil {
				slog.Error("give back", "err", err)
			}
		}
	})
}

func (s *server) hello(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	if name == "" {
		name = "anonymous"
	}
	var n int64
	err := s.db.QueryRow(r.Context(), `
		INSERT INTO greetings AS g (name, count) VALUES ($1, 1)
		ON CONFLICT (name) DO UPDATE SET count = g.count + 1
		RETURNING count`, name).Scan(&n)
	if err != nil {
		unavailable(w, r, err)
		return
	}
	answer(w, http.StatusOK, fmt.Sprintf("Hello %s #%d!", name, n))
}

func answer(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
}

func unavailable(w http.ResponseWriter, r *http.Request, err error) {
	slog.ErrorContext(r.Context(), "request failed", "err", err)
	answer(w, http.StatusServiceUnavailable, "Service Unavailable")
}

func logRequests(log *slog.Logger) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			begin := time.Now()
			ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
			next.ServeHTTP(ww, r)
			log.InfoContext(r.Context(), "request", "id", middleware.GetReqID(r.Context()), "method", r.Method, "path", r.URL.Path,
				"status", ww.Status(), "bytes", ww.BytesWritten(), "duration", time.Since(begin))
		})
	}
}
