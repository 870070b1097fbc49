package limits

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
)

// counters are Shared in memory that note how they are called. They let a test
// choose how the throttle decides, what fails, what takes long and what is lost.
type counters struct {
	wait      time.Duration         // for a token, if not 0
	behind    time.Duration         // how far their clock is behind the machine's
	taken     func()                // called when Take has decided, if not nil
	returning func(context.Context) // called before Return does anything, if not nil
	forgetful bool                  // they keep no counter

	mu         sync.Mutex
	err        error // of all calls
	returnErr  error
	frozen     bool // calls take as long as a trip may, and fail
	generation uint64
	used       map[windowID]int64
	alone      map[windowID]int64
	calls      []string // "take" or "token", and "return"
	syncs      int      // calls of Take that took nothing
	seeds      []int64
	checks     atomic.Int64
}

func (c *counters) Now() time.Time { return time.Now().Add(-c.behind) }

func (c *counters) Generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

func (c *counters) set(err error, frozen bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err, c.frozen = err, frozen
}

func (c *counters) fail(ctx context.Context) error {
	c.mu.Lock()
	err, frozen := c.err, c.frozen
	c.mu.Unlock()
	if frozen {
		select {
		case <-ctx.Done():
		case <-time.After(maxWait):
		}
		return fmt.Errorf("frozen: %w", ErrAway)
	}
	return err
}

func (c *counters) Check(ctx context.Context) error {
	c.checks.Add(1)
	return c.fail(ctx)
}

func (c *counters) Take(ctx context.Context, r Request) (Taken, error) {
	t, err := c.take(ctx, r)
	if c.taken != nil {
		c.taken()
	}
	return t, err
}

func (c *counters) take(ctx context.Context, r Request) (Taken, error) {
	t := Taken{KeyID: r.KeyID, Window: r.Window, Cost: r.Cost}
	c.mu.Lock()
	switch {
	case r.Cost > 0:
		c.calls = append(c.calls, "take")
	case r.Throttle != nil:
		c.calls = append(c.calls, "token")
	default:
		c.syncs++
	}
	c.mu.Unlock()
	if err := c.fail(context.WithoutCancel(ctx)); err != nil {
		return t, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !r.Window.End.IsZero() {
		if !r.Window.Contains(c.Now()) {
			t.Outcome = WrongWindow
			return t, nil
		}
		id := idOf(r.KeyID, r.Window)
		t.Epoch = fmt.Sprint("of ", id.start)
		if c.used == nil {
			c.used, c.alone = map[windowID]int64{}, map[windowID]int64{}
		}
		if r.Seed != nil {
			c.seeds = append(c.seeds, r.Seed.Shared)
			used := r.Seed.Shared
			for _, n := range r.Seed.Alone {
				used += n
			}
			c.used[id] = max(c.used[id], used)
		}
		if _, ok := c.used[id]; !ok || c.forgetful {
			t.Outcome = Unseeded
			return t, nil
		}
		if r.Alone != nil {
			t.Alone = r.Alone.Load()
			c.used[id] += t.Alone - c.alone[id]
			c.alone[id] = t.Alone
		}
		defer func() { t.Used = c.used[id] }()
		t.Used = c.used[id]
	}
	if r.Throttle != nil && c.wait > 0 {
		t.Outcome, t.Wait = Throttled, c.wait
		return t, nil
	}
	if r.Cost > 0 {
		id := idOf(r.KeyID, r.Window)
		if c.used[id]+r.Cost > r.Limit {
			t.Outcome = Exhausted
			return t, nil
		}
		c.used[id] += r.Cost
		t.Used = c.used[id]
	}
	return t, nil
}

func (c *counters) Return(ctx context.Context, t Taken) error {
	c.mu.Lock()
	c.calls = append(c.calls, "return")
	err := c.returnErr
	c.mu.Unlock()
	if c.returning != nil {
		c.returning(ctx)
	}
	if err == nil {
		err = c.fail(ctx)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used[idOf(t.KeyID, t.Window)] -= t.Cost
	return nil
}

// took returns the calls since it was last asked, but those that took nothing.
func (c *counters) took() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := strings.Join(c.calls, " ")
	c.calls = nil
	return s
}

// seeded returns the seeds since it was last asked.
func (c *counters) seeded() []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.seeds
	c.seeds = nil
	slices.Sort(s)
	return s
}

// lose has the counters lost, or set back.
func (c *counters) lose(old int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.used {
		if old == 0 {
			delete(c.used, id)
		} else {
			c.used[id] = old
		}
	}
}

// total is what is used of the first key, of all windows.
func (c *counters) total() (n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, used := range c.used {
		if id.keyID == "1" {
			n += used
		}
	}
	return n
}

// usage is a UsageStore in memory, which notes how it is called.
type usage struct {
	recording func(writes int)      // called before RecordUsage does anything, if not nil
	reading   func(context.Context) // called when Used has read, if not nil

	mu       sync.Mutex
	err      error
	persists bool                          // what fails with err is recorded all the same
	rows     map[string]map[UsageKey]int64 // by writer
	writes   []int                         // how many rows each had
	reads    int
	trims    []trimmed
}

type trimmed struct {
	at         time.Time
	fold, drop plan.Date
}

func (u *usage) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.reads
}

func (u *usage) RecordUsage(_ context.Context, writer string, rows []UsageRow) error {
	u.mu.Lock()
	u.writes = append(u.writes, len(rows))
	n := len(u.writes)
	u.mu.Unlock()
	if u.recording != nil {
		u.recording(n)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err != nil && !u.persists {
		return u.err
	}
	for _, r := range rows {
		u.put(r.Writer(writer), r.UsageKey, max(u.rows[r.Writer(writer)][r.UsageKey], r.Charged))
	}
	return u.err
}

func (u *usage) put(writer string, k UsageKey, charged int64) {
	if u.rows == nil {
		u.rows = map[string]map[UsageKey]int64{}
	}
	if u.rows[writer] == nil {
		u.rows[writer] = map[UsageKey]int64{}
	}
	u.rows[writer][k] = charged
}

func (u *usage) Used(ctx context.Context, q UsageQuery) (c Charged, err error) {
	if u.reading != nil {
		defer u.reading(ctx) // without u.mu
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reads++
	for writer, rows := range u.rows {
		replica, kind, _ := strings.Cut(writer, "/")
		for k, n := range rows {
			if k.KeyID != q.KeyID || k.Date < q.First || k.Date >= q.Next || replica == q.Writer && k.Date >= q.Known {
				continue
			}
			if strings.HasPrefix(kind, "alone") {
				c.Add(replica, n)
			} else {
				c.Add("", n)
			}
		}
	}
	return c, u.err
}

func (u *usage) DailyUsage(context.Context, string, plan.Date, plan.Date) ([]DayUsage, error) {
	return nil, errors.ErrUnsupported
}

func (u *usage) TrimUsage(_ context.Context, fold, drop plan.Date) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.trims = append(u.trims, trimmed{time.Now().UTC(), fold, drop})
	return u.err
}

// trimmed returns how it was trimmed so far.
func (u *usage) trimmed() []trimmed {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.trims)
}

// fail has all fail with err, or nothing.
func (u *usage) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = err
}

// set has the record say that a writer charged so much.
func (u *usage) set(writer string, k UsageKey, charged int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.put(writer, k, charged)
}

// total is what is recorded, by all writers.
func (u *usage) total(k UsageKey) (n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, rows := range u.rows {
		n += rows[k]
	}
	return n
}

// peers are Peers that others reach Redis or not, and note who says so.
type peers struct {
	mu      sync.Mutex
	others  bool
	err     error
	reached []string
}

func (p *peers) Reached(_ context.Context, replica string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reached = append(p.reached, replica)
	return p.err
}

func (p *peers) OthersReach(context.Context, string) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.others, p.err
}

func (p *peers) times() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.reached)
}

// quietLedger returns a ledger that writes only when asked.
func quietLedger(u UsageStore) *ledger { return newLedger(u, "me", slog.New(slog.DiscardHandler)) }

// A replica is Limits with what they stand on, and two keys on one plan.
type replica struct {
	*Limits
	shared *counters
	local  *counters // of the throttles while shared is away
	usage  *usage
	peers  peers
	log    bytes.Buffer
	plan   *plan.Plan
	stop   func()
}

// newReplica returns a replica on shared counters. It does not run.
func newReplica(q *plan.Quota, th *plan.Throttle) *replica {
	r := &replica{shared: new(counters), local: new(counters), usage: new(usage), plan: &plan.Plan{Name: "p", Quota: q, Throttle: th}}
	r.Limits = New(Config{
		Local: r.local, Shared: r.shared, Peers: &r.peers, Usage: r.usage, Replica: "me",
		Log: slog.New(slog.NewTextHandler(&r.log, nil)),
	})
	return r
}

// run runs it until it is stopped.
func (r *replica) run(t *testing.T) *replica {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return r
}

func (r *replica) take(t *testing.T, id string) (*Unit, Decision, error) {
	t.Helper()
	return r.Take(t.Context(), &apikey.Key{ID: id, Name: id, Plan: r.plan}, 1)
}

// want fails unless a request of the first key is decided like that, after these
// calls of the shared counters. It returns the unit.
func (r *replica) want(t *testing.T, refused Limit, calls string) *Unit {
	t.Helper()
	u, d, err := r.take(t, "1")
	if err != nil || d.Refused != refused || (u == nil) != (refused != "") {
		t.Errorf("decided %+v, %v; want refused by %q", d, err, refused)
	}
	r.wantCalls(t, calls)
	return u
}

// wantKept is want of a request that is let through, and charged.
func (r *replica) wantKept(t *testing.T, calls string) {
	t.Helper()
	if u := r.want(t, "", calls); u != nil {
		u.Keep()
	}
}

func (r *replica) wantCalls(t *testing.T, want string) {
	t.Helper()
	if got := r.shared.took(); got != want {
		t.Errorf("the counters were called to %q, want %q", got, want)
	}
}

// wantErr fails unless a request of the first key fails with err, after these
// calls.
func (r *replica) wantErr(t *testing.T, err error, calls string) {
	t.Helper()
	if u, d, got := r.take(t, "1"); !errors.Is(got, err) || u != nil {
		t.Errorf("decided %+v, %v; want %v", d, got, err)
	}
	r.wantCalls(t, calls)
}

func (r *replica) wantSeeds(t *testing.T, want ...int64) {
	t.Helper()
	if got := r.shared.seeded(); !slices.Equal(got, want) {
		t.Errorf("seeded with %v, want %v", got, want)
	}
}

func (r *replica) wantUsed(t *testing.T, want int64) {
	t.Helper()
	if got := r.shared.total(); got != want {
		t.Errorf("%d units are used, want %d", got, want)
	}
}

func perDay(limit int64) *plan.Quota { return &plan.Quota{Limit: limit, Period: plan.Day} }
