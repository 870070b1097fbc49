package backendtest

import (
	"crypto/rand"
	"encoding/hex"
	"testing"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
)

// AddPlan writes a plan to the database at url, with a name of its own if p
// has none, and returns it.
func AddPlan(t testing.TB, url string, p plan.Plan) *plan.Plan {
	t.Helper()
	if p.Name == "" {
		p.Name = "plan-" + rand.Text()
	}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	Exec(t, url, `
		INSERT INTO plans (name, quota_limit, quota_period, quota_offset, quota_timezone, throttle_rate, throttle_burst)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, p.Row()...)
	return &p
}

// AddKey creates a key on the plan, with a name of its own, and returns its
// value.
func AddKey(t testing.TB, keys apikey.Keys, p *plan.Plan) string {
	t.Helper()
	value := apikey.Generate()
	k := apikey.Key{Name: "key-" + rand.Text(), Plan: p, Enabled: true}
	if _, err := keys.CreateKey(t.Context(), k, value); err != nil {
		t.Fatalf("create key: %v", err)
	}
	return value.Reveal()
}

// AddKeys creates n keys on a plan of a PostgreSQL database, and returns their
// values.
func AddKeys(t testing.TB, url, plan string, n int) []string {
	t.Helper()
	values, hashes, prefixes := make([]string, n), make([]string, n), make([]string, n)
	for i := range values {
		v := apikey.Generate()
		hash := v.Hash()
		values[i], hashes[i], prefixes[i] = v.Reveal(), hex.EncodeToString(hash[:]), v.Display()
	}
	Exec(t, url, `
		WITH new AS (
			SELECT gen_random_uuid()::text AS id, hash, prefix FROM unnest($2::text[], $3::text[]) AS v (hash, prefix)
		), keys AS (
			INSERT INTO api_keys (id, name, plan) SELECT id, 'key-' || id, $1 FROM new
		)
		INSERT INTO api_key_values (hash, key_id, prefix) SELECT decode(hash, 'hex'), id, prefix FROM new`, plan, hashes, prefixes)
	return values
}

// Quota is a plan of n requests a day.
func Quota(n int64) plan.Plan {
	return plan.Plan{Quota: &plan.Quota{Limit: n, Period: plan.Day}}
}

// Throttle is a plan of rate requests a second.
func Throttle(rate float64, burst int64) plan.Plan {
	return plan.Plan{Throttle: &plan.Throttle{Rate: rate, Burst: burst}}
}
