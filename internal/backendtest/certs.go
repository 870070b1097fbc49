package backendtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"helloapi/internal/certs"
)

// certificate is of a host that has one, in the store of certificates.
var certificate = certs.ID{Directory: "https://ca.test/dir", Name: "api.example.com"}

// stateOf returns what a store knows about id.
func stateOf(t testing.TB, store certs.Store, id certs.ID) certs.State {
	t.Helper()
	states, _, err := store.States(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range states {
		if s.ID == id {
			return s
		}
	}
	return certs.State{}
}

func acquire(t testing.TB, store certs.Store, id certs.ID, holder string, ttl time.Duration) certs.Lease {
	t.Helper()
	l, err := store.Acquire(t.Context(), id, holder, ttl)
	if err != nil {
		t.Fatalf("Acquire for %s: %v", holder, err)
	}
	return l
}

func finish(t testing.TB, store certs.Store, l certs.Lease, o certs.Outcome) string {
	t.Helper()
	version, err := store.Finish(t.Context(), l, o)
	if err != nil {
		t.Fatalf("Finish: %v", err)
	}
	return version
}

func testCertLease(t *testing.T, url string) {
	a, b := open(t, url).Certs(), open(t, url).Certs()

	// Of many one gets it.
	var got atomic.Int32
	var lease certs.Lease
	var wg sync.WaitGroup
	for i := range 16 {
		store := []certs.Store{a, b}[i%2]
		wg.Go(func() {
			l, err := store.Acquire(t.Context(), certificate, fmt.Sprint("replica", i), time.Minute)
			if err == nil {
				got.Add(1)
				lease = l
			} else if !errors.Is(err, certs.ErrNotNow) {
				t.Errorf("Acquire: %v, want ErrNotNow", err)
			}
		})
	}
	wg.Wait()
	if got.Load() != 1 || lease.Failures != 0 || lease.Version != "" {
		t.Fatalf("%d of 16 got the lease, one as %+v; want 1", got.Load(), lease)
	}
	st := stateOf(t, b, certificate)
	if st.Holder == "" || time.Until(st.LeaseUntil) > 61*time.Second || time.Until(st.LeaseUntil) < 50*time.Second || st.Version != "" || !st.NextAttempt.IsZero() {
		t.Errorf("state while it is held: %+v", st)
	}
	// Another host's, and another directory's, is another lease.
	for _, id := range []certs.ID{{Directory: certificate.Directory, Name: "b.example.com"}, {Directory: "https://other.test/dir", Name: certificate.Name}} {
		acquire(t, b, id, "x", time.Minute)
	}
	// Whoever held it when it was killed has it again, and the one before can't
	// finish any more.
	again := acquire(t, b, certificate, st.Holder, time.Minute)
	if again.Fence <= lease.Fence {
		t.Errorf("the fence went from %d to %d", lease.Fence, again.Fence)
	}
	if _, err := a.Finish(t.Context(), lease, certs.Outcome{Certificate: []byte("late")}); !errors.Is(err, certs.ErrLeaseLost) {
		t.Errorf("Finish of a lease that was taken over: %v, want ErrLeaseLost", err)
	}
	// Given back without an order: the next may begin at once.
	finish(t, b, again, certs.Outcome{})
	short := acquire(t, a, certificate, "short", time.Millisecond)
	waitFor(t, "a lease to run out", func() bool { return stateOf(t, b, certificate).Holder == "" })
	// One that ran out can be finished all the same, once.
	version := finish(t, a, short, certs.Outcome{Certificate: []byte("sealed"), NotAfter: time.Now().Add(time.Hour), Retry: time.Hour})
	if _, err := a.Finish(t.Context(), short, certs.Outcome{Certificate: []byte("again")}); !errors.Is(err, certs.ErrLeaseLost) {
		t.Errorf("Finish a second time: %v, want ErrLeaseLost", err)
	}
	if data, v, err := b.Certificate(t.Context(), certificate); err != nil || string(data) != "sealed" || v != version || v == "" {
		t.Errorf("Certificate = %q, %q, %v; want what was stored, and version %q", data, v, err, version)
	}
	if _, err := b.Acquire(t.Context(), certificate, "short", time.Minute); !errors.Is(err, certs.ErrNotNow) {
		t.Errorf("Acquire too soon after an order: %v, want ErrNotNow", err)
	}
}

func testCertOutcomes(t *testing.T, url string) {
	store := open(t, url).Certs()
	if states, now, err := store.States(t.Context()); err != nil || len(states) != 0 || time.Since(now).Abs() > time.Minute {
		t.Fatalf("States of nothing = %v, %v, %v", states, now, err)
	}
	if _, _, err := store.Certificate(t.Context(), certificate); !errors.Is(err, certs.ErrNotFound) {
		t.Errorf("Certificate: %v, want ErrNotFound", err)
	}
	if err := store.Renew(t.Context(), certificate.Name); !errors.Is(err, certs.ErrNotFound) {
		t.Errorf("Renew: %v, want ErrNotFound", err)
	}

	for n := 1; n <= 2; n++ {
		l := acquire(t, store, certificate, "r", time.Minute)
		if l.Failures != n-1 {
			t.Errorf("lease after %d failures: %+v", n-1, l)
		}
		finish(t, store, l, certs.Outcome{Error: "the CA said ‘no’", Retry: 20 * time.Minute})
		st := stateOf(t, store, certificate)
		wait := time.Until(st.NextAttempt)
		if st.Failures != n || st.LastError != "the CA said ‘no’" || st.Holder != "" || !st.LeaseUntil.IsZero() || wait > 21*time.Minute || wait < 19*time.Minute {
			t.Errorf("state after %d failures: %+v", n, st)
		}
		if _, err := store.Acquire(t.Context(), certificate, "r", time.Minute); !errors.Is(err, certs.ErrNotNow) {
			t.Errorf("Acquire after a failure: %v, want ErrNotNow", err)
		}
		// A person may insist.
		if n == 1 {
			Exec(t, url, map[bool]string{
				true:  `UPDATE certificates SET next_attempt = 0`,
				false: `UPDATE certificates SET next_attempt = 'epoch'`,
			}[isSQLite(url)])
		} else if err := store.Renew(t.Context(), certificate.Name); err != nil {
			t.Fatal(err)
		}
	}
	if st := stateOf(t, store, certificate); !st.Renew || st.Failures != 0 || !st.NextAttempt.IsZero() {
		t.Errorf("state after Renew: %+v", st)
	}

	notAfter := time.Now().Add(90 * 24 * time.Hour).Truncate(time.Second)
	l := acquire(t, store, certificate, "r", time.Minute)
	version := finish(t, store, l, certs.Outcome{Certificate: []byte("one"), NotAfter: notAfter, Retry: time.Hour})
	st := stateOf(t, store, certificate)
	if st.Version != version || version == "" || !st.NotAfter.Equal(notAfter) || time.Since(st.IssuedAt).Abs() > time.Minute ||
		st.Renew || st.Failures != 0 || st.LastError != "" || st.Holder != "" || time.Until(st.NextAttempt) < 59*time.Minute {
		t.Errorf("state after an order: %+v", st)
	}

	// A failure, or no order, leaves the certificate as it is.
	for _, o := range []certs.Outcome{{Error: "no"}, {}} {
		if err := store.Renew(t.Context(), certificate.Name); err != nil {
			t.Fatal(err)
		}
		l = acquire(t, store, certificate, "r", time.Minute)
		if l.Version != version {
			t.Errorf("lease with version %q, want %q", l.Version, version)
		}
		finish(t, store, l, o)
		if st := stateOf(t, store, certificate); st.Version != version || !st.Renew || !st.NotAfter.Equal(notAfter) {
			t.Errorf("state after %+v: %+v", o, st)
		}
	}
	l = acquire(t, store, certificate, "r", time.Minute)
	if v := finish(t, store, l, certs.Outcome{Certificate: []byte("one"), NotAfter: notAfter}); v == version {
		t.Error("another certificate has the same version")
	}

	if n, err := store.Forget(t.Context()); n != 1 || err != nil {
		t.Errorf("Forget = %d, %v; want 1", n, err)
	}
	if states, _, err := store.States(t.Context()); len(states) != 0 || err != nil {
		t.Errorf("States after Forget = %v, %v", states, err)
	}
}

func testCertSecrets(t *testing.T, url string) {
	a, b := open(t, url).Certs(), open(t, url).Certs()
	account := certs.ID{Directory: certificate.Directory, Name: "account"}
	if _, err := a.Secret(t.Context(), account); !errors.Is(err, certs.ErrNotFound) {
		t.Errorf("Secret: %v, want ErrNotFound", err)
	}
	// Many make one; all get the same.
	var wg sync.WaitGroup
	for i := range 16 {
		store := []certs.Store{a, b}[i%2]
		wg.Go(func() {
			if err := store.AddSecret(t.Context(), account, []byte(rand.Text())); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	first, err := a.Secret(t.Context(), account)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.AddSecret(t.Context(), account, []byte("late")); err != nil {
		t.Error(err)
	}
	if got, err := b.Secret(t.Context(), account); err != nil || !bytes.Equal(got, first) {
		t.Errorf("Secret = %q, %v; want %q", got, err, first)
	}
	if _, err := a.Secret(t.Context(), certs.ID{Directory: "https://other.test/dir", Name: "account"}); !errors.Is(err, certs.ErrNotFound) {
		t.Errorf("Secret of another directory: %v, want ErrNotFound", err)
	}

	answer := func(name string) certs.ID {
		return certs.ID{Directory: certificate.Directory, Name: certs.AnswerPrefix + name}
	}
	for _, v := range []string{"one", "two"} {
		if err := a.PutAnswer(t.Context(), answer("x"), []byte(v)); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Secret(t.Context(), answer("x")); err != nil || string(got) != v {
			t.Errorf("answer = %q, %v; want %q", got, err, v)
		}
	}
	// Old ones go when another one comes, and nothing else does; nor one that is
	// written again just then.
	Exec(t, url, map[bool]string{
		true:  `UPDATE certificate_secrets SET written_at = written_at - 90000000`,
		false: `UPDATE certificate_secrets SET written_at = written_at - interval '25 hours'`,
	}[isSQLite(url)])
	if err := a.PutAnswer(t.Context(), answer("x"), []byte("three")); err != nil {
		t.Fatal(err)
	}
	Exec(t, url, map[bool]string{
		true:  `UPDATE certificate_secrets SET written_at = written_at - 90000000`,
		false: `UPDATE certificate_secrets SET written_at = written_at - interval '25 hours'`,
	}[isSQLite(url)])
	if err := a.PutAnswer(t.Context(), answer("y"), []byte("four")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Secret(t.Context(), answer("x")); !errors.Is(err, certs.ErrNotFound) {
		t.Errorf("an old answer: %v, want ErrNotFound", err)
	}
	for range 2 {
		if err := b.DeleteAnswer(t.Context(), answer("y")); err != nil {
			t.Error(err)
		}
	}
	if _, err := a.Secret(t.Context(), answer("y")); !errors.Is(err, certs.ErrNotFound) {
		t.Errorf("a deleted answer: %v, want ErrNotFound", err)
	}
	if _, err := a.Secret(t.Context(), account); err != nil {
		t.Errorf("the account was dropped: %v", err)
	}
}

func testCertReseal(t *testing.T, url string) {
	store := open(t, url).Certs()
	l := acquire(t, store, certificate, "r", time.Minute)
	version := finish(t, store, l, certs.Outcome{Certificate: []byte("cert"), NotAfter: time.Now()})
	acquire(t, store, certs.ID{Directory: "d", Name: "none yet"}, "r", time.Minute)
	account, canary := certs.ID{Directory: certificate.Directory, Name: "account"}, certs.ID{Name: "canary"}
	for id, data := range map[certs.ID]string{account: "acc", canary: "can"} {
		if err := store.AddSecret(t.Context(), id, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.PutAnswer(t.Context(), certs.ID{Directory: "d", Name: certs.AnswerPrefix + "x"}, []byte("answer")); err != nil {
		t.Fatal(err)
	}
	type entry struct {
		Kind certs.Kind
		ID   certs.ID
	}
	seen := map[entry]string{}
	err := store.Reseal(t.Context(), func(kind certs.Kind, id certs.ID, data []byte) []byte {
		seen[entry{kind, id}] = string(data)
		if id == account {
			return nil
		}
		return append([]byte("new "), data...)
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[entry]string{{certs.KindCertificate, certificate}: "cert", {certs.KindSecret, account}: "acc", {certs.KindSecret, canary}: "can"}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("Reseal saw (-want +got):\n%s", diff)
	}
	if data, v, err := store.Certificate(t.Context(), certificate); string(data) != "new cert" || v != version || err != nil {
		t.Errorf("Certificate = %q, %q, %v; want it resealed, and the version %q as before", data, v, err, version)
	}
	for id, want := range map[certs.ID]string{account: "acc", canary: "new can"} {
		if data, err := store.Secret(t.Context(), id); string(data) != want || err != nil {
			t.Errorf("Secret(%v) = %q, %v; want %q", id, data, err, want)
		}
	}
}

func testCertsAway(t *testing.T, url string) {
	store := open(t, url).Certs()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, states := store.States(gone)
	_, _, read := store.Certificate(gone, certificate)
	_, lease := store.Acquire(gone, certificate, "r", time.Minute)
	_, finished := store.Finish(gone, certs.Lease{ID: certificate}, certs.Outcome{})
	_, secret := store.Secret(gone, certificate)
	_, forget := store.Forget(gone)
	for what, err := range map[string]error{
		"States": states, "Certificate": read, "Acquire": lease, "Finish": finished, "Secret": secret, "Forget": forget,
		"Renew": store.Renew(gone, "x"), "AddSecret": store.AddSecret(gone, certificate, nil), "PutAnswer": store.PutAnswer(gone, certificate, nil),
		"DeleteAnswer": store.DeleteAnswer(gone, certificate), "Reseal": store.Reseal(gone, nil),
	} {
		// None of these may be taken for an answer.
		if err == nil || errors.Is(err, certs.ErrNotFound) || errors.Is(err, certs.ErrNotNow) || errors.Is(err, certs.ErrLeaseLost) {
			t.Errorf("%s of a store that does not answer: %v", what, err)
		}
	}
}
