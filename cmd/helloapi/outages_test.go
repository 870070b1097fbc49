//go:build !long

package main

import "time"

// outages are how long Redis is away in TestRedisOutage.
var outages = []time.Duration{500 * time.Millisecond, 2 * time.Second}
