package meter

import (
	"sync"
	"time"

	"helloapi/internal/plan"
)

// rememberFor bounds how long a spent quota is believed to be so without
// asking, since a unit may be given back, or granted, on another replica.
const rememberFor = time.Second

// spent remembers which keys have nothing left of their quota.
type spent struct {
	mu    sync.Mutex
	keys  map[string]memory // by key ID
	sweep time.Time         // when to drop what has passed
}

// A memory is that a key's quota was spent, or that it has a unit again.
type memory struct {
	spent  bool
	quota  plan.Quota // that is spent: a changed plan is asked for anew
	window plan.Window
	since  time.Time // on the monotonic clock, as is until
	until  time.Time
}

// remember notes that the quota was spent when the limiter answered what it was
// asked at the time asked, for no longer than the window goes on. If the key
// was given a unit back since, that may have been later: then it does not.
func (s *spent) remember(keyID string, q plan.Quota, w plan.Window, asked time.Time, left time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.keys[keyID]; ok && !m.spent && !asked.After(m.since) {
		return
	}
	s.put(keyID, memory{true, q, w, asked, asked.Add(min(rememberFor, left))})
}

// forget notes that the key was given a unit back.
func (s *spent) forget(keyID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.put(keyID, memory{since: now, until: now.Add(rememberFor)})
}

// put sets what is remembered of a key, and now and then drops what has
// passed. The caller holds s.mu.
func (s *spent) put(keyID string, m memory) {
	if m.since.After(s.sweep) {
		for id, old := range s.keys {
			if m.since.After(old.until) {
				delete(s.keys, id)
			}
		}
		s.sweep = m.since.Add(rememberFor)
	}
	s.keys[keyID] = m
}

// recall reports whether the quota is known to be spent, and in which window.
func (s *spent) recall(keyID string, q plan.Quota, now time.Time) (plan.Window, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.keys[keyID]
	return m.window, ok && m.spent && m.quota == q && now.Before(m.until)
}
