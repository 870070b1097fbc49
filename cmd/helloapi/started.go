package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"helloapi/internal/backend"
	"helloapi/internal/clock"
	"helloapi/internal/server"
)

const (
	// startTimeout bounds what is asked of the database to say at start.
	startTimeout = 5 * time.Second
	// plansSaid is how many plans are said.
	plansSaid = 20
	// clockOff is by how much a clock differs that looks wrong.
	clockOff = 2 * time.Second
)

// logStart says what is served, from where and to whom, and what a person may
// not have meant.
func (c *serveCmd) logStart(ctx context.Context, log *slog.Logger, srv *server.Server, stores *backend.Backend, url string, room server.Room, connections int) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	_, embedded := stores.File()
	public := c.on() || !embedded // others than people at their own machine reach it
	var inUse []string
	if public {
		inUse = firstKeysInUse(ctx, stores)
	}
	attrs := listeners(srv)
	if c.Pages != off {
		attrs = append(attrs, "page", url+"/")
	}
	for _, about := range stores.About() {
		attrs = append(attrs, strings.ToLower(about[0]), about[1])
	}
	attrs = append(attrs, "plans", describePlans(ctx, stores), "origins", strings.Join(c.CORSAllowedOrigins, " "))
	log.Info("serving", append(attrs, "max_connections", connections, "memory_mib", room.Memory>>20, "open_files", room.Descriptors, "version", version())...)

	if public {
		if slices.Contains(c.CORSAllowedOrigins, "*") {
			log.Info("pages of any site may call with a key that they have; CORS_ALLOWED_ORIGINS names those that may")
		}
		if len(inUse) > 0 {
			log.Warn("the keys of the first start may still call: `helloapi keys disable NAME` if nobody uses them", "keys", strings.Join(inUse, " "))
		}
	}
	if ahead := stores.KeyCache.Now().Sub(clock.Now()); ahead.Abs() > clockOff {
		log.Warn("the clock of this machine differs from the database's, which is used: is time synchronised?", "database_ahead", ahead.Round(time.Millisecond))
	}
	if !log.Enabled(ctx, slog.LevelInfo) {
		log.Warn("requests are not logged: LOG_LEVEL is "+c.LogLevel, "log_level", c.LogLevel)
	}
}

// describePlans says the plans in a line: "free: 5 a day, 5/s, burst 5".
func describePlans(ctx context.Context, stores *backend.Backend) string {
	plans, err := stores.Plans(ctx)
	if err != nil {
		return "can't be read: " + err.Error()
	}
	var said []string
	for i, p := range plans {
		if i == plansSaid {
			said = append(said, fmt.Sprintf("and %d more", len(plans)-i))
			break
		}
		said = append(said, fmt.Sprintf("%s: %s, %s", p.Name, p.Quota, p.Throttle))
	}
	return cmp.Or(strings.Join(said, "; "), "none")
}

// firstKeysInUse returns the names of keys that a first start makes and that may
// call.
func firstKeysInUse(ctx context.Context, stores *backend.Backend) (names []string) {
	for _, k := range firstKeys() {
		if stored, err := stores.Key(ctx, k.Name); err == nil && stored.Refusal(stores.KeyCache.Now()) == "" {
			names = append(names, k.Name)
		}
	}
	return names
}
