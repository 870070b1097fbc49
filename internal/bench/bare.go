package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"helloapi/internal/web"
)

// bareMain serves the least that there can be: chi, and the same JSON. It
// counts nothing.
func bareMain() error {
	r := chi.NewRouter()
	r.Get("/hello", func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("name")
		body, _ := json.Marshal(web.Message{Message: fmt.Sprintf("Hello %s #%d!", name, 1)})
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	})
	r.Handle("/metrics", promhttp.Handler())
	srv := &http.Server{Addr: os.Getenv("ADDR"), Handler: r, ReadHeaderTimeout: 10 * time.Second}
	return srv.ListenAndServe()
}
