package limits

import (
	"context"
	"fmt"
	"sync"
	"time"

	"helloapi/internal/plan"
)

const (
	// readEvery is how often what others charged is read from the ledger while
	// the shared counters are away.
	readEvery = time.Second
	// readTimeout bounds such a read.
	readTimeout = time.Second
	// shareOf is which part of what is left of a quota a replica lets through
	// between two reads: a tenth.
	shareOf = 10
)

// A share is what this process may let through alone, between two reads of the
// ledger. It belongs to that interval, however often the shared counters come
// and go in it.
type share struct {
	mu      sync.Mutex
	read    time.Time // when the ledger was read; zero: not yet
	others  int64     // what others had charged
	known   plan.Date // since when that leaves out what this process charged; "": all
	alone   int64     // let through alone then
	units   int64     // to let through until the next read
	reading *reading  // the read under way, or nil
}

// A reading is a read of the ledger that callers wait for.
type reading struct {
	done chan struct{}
	err  error // set before done is closed
}

// takeAlone takes without the shared counters: a token of this process, and a
// unit of what the ledger says is left.
func (l *Limits) takeAlone(ctx context.Context, kw *keyWindow, r Request) (Taken, error) {
	t := Taken{KeyID: r.KeyID, Window: r.Window, Cost: r.Cost}
	if r.Throttle != nil {
		token, err := l.Local.Take(ctx, Request{KeyID: r.KeyID, Throttle: r.Throttle})
		if err != nil || token.Outcome != Granted {
			return token, err
		}
	}
	if r.Window.End.IsZero() {
		return t, nil
	}
	first, next, err := kw.calendar.quota().Dates(kw.window)
	if err != nil {
		return t, err
	}
	s := &kw.share
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := l.readOthers(s, kw, r.Limit, first, next); err != nil {
		return t, err
	}
	switch t.Used = s.others + l.ownUse(kw, first, next); {
	case t.Used+r.Cost > r.Limit:
		t.Outcome = Exhausted
		return t, nil
	case kw.alone.Load()-s.alone+r.Cost > max(s.units, r.Cost):
		return t, fmt.Errorf("%w, and this replica's share for now is used", ErrAway)
	}
	if kw.alone.Add(r.Cost) == r.Cost {
		l.mu.Lock()
		l.owing[idOf(kw.keyID, kw.window)] = kw
		l.mu.Unlock()
	}
	t.Used += r.Cost
	return t, nil
}

// ownUse is what this process has used of the quota: in flight, kept, and let
// through alone. In flight comes first: a unit that is kept meanwhile may count
// twice, but is never missed.
func (l *Limits) ownUse(kw *keyWindow, first, next plan.Date) int64 {
	inFlight := kw.inFlight.Load()
	kept, _ := l.ledger.own(kw.keyID, first, next)
	return inFlight + kept + kw.alone.Load()
}

// readOthers reads what others charged, if that was not done just now. Callers
// of one key wait for one read. The caller holds s.mu.
func (l *Limits) readOthers(s *share, kw *keyWindow, limit int64, first, next plan.Date) error {
	fresh := func() bool {
		return time.Since(s.read) < readEvery && (s.known == "" || s.known == l.ledger.knownFrom())
	}
	for range 2 { // once more if a day has begun meanwhile
		if fresh() {
			return nil
		}
		r := s.reading
		if r == nil {
			r = &reading{done: make(chan struct{})}
			s.reading = r
			s.mu.Unlock()
			now, known := time.Now(), l.ledger.knownFrom()
			ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
			others, err := l.ledger.others(ctx, kw.keyID, first, next, known)
			cancel()
			s.mu.Lock()
			if err != nil {
				r.err = fmt.Errorf("%w, and the ledger too: %w", ErrAway, err)
			} else {
				s.known, s.others = known, others.Shared
				for _, units := range others.Alone {
					s.others += units
				}
				if now.Sub(s.read) >= readEvery { // else it is the same interval, and the same share
					s.read, s.alone = now, kw.alone.Load()
					s.units = max(0, limit-s.others-l.ownUse(kw, first, next)) / shareOf
				}
			}
			s.reading = nil
			close(r.done)
		} else {
			s.mu.Unlock()
			<-r.done
			s.mu.Lock()
		}
		if r.err != nil {
			return r.err
		}
		if s.known == "" || s.known == l.ledger.knownFrom() {
			return nil // as fresh as it gets, however long it took
		}
	}
	return nil
}
