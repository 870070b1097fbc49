package certs

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Status is the state of a certificate as one replica knows it.
type Status struct {
	Host        string
	NotAfter    time.Time // of what is served; zero if nothing is yet
	Error       string    // what is wrong, or was with the last attempt; "" if nothing
	Holder      string    // the replica that is getting another one; "" if none is
	NextAttempt time.Time // when one may; zero if there is nothing to wait for
	Failures    int       // attempts in a row that failed
}

// Statuses returns the state of each host, as of the last poll.
func (a *ACME) Statuses() []Status {
	a.mu.Lock()
	trouble := a.trouble
	a.mu.Unlock()
	list := make([]Status, 0, len(a.hosts))
	for _, host := range a.hosts {
		s := a.sites[host]
		st := Status{Host: host}
		c := s.current.Load()
		if c != nil {
			st.NotAfter = c.Leaf.NotAfter
		}
		s.mu.Lock()
		st.Holder, st.Failures, st.Error = s.state.Holder, s.state.Failures, s.state.LastError
		switch {
		case s.state.Failures > 0 || s.state.Renew:
			st.NextAttempt = s.state.NextAttempt
		case c != nil:
			st.NextAttempt = later(s.state.NextAttempt, renewAt(c.Leaf))
		}
		switch {
		case trouble != nil:
			st.Error = trouble.Error()
		case s.unsaved != nil && s.unsaved.err != nil:
			st.Error = "obtained, but not stored yet: " + s.unsaved.err.Error()
		case s.noLease != nil:
			st.Error = s.noLease.Error()
		case s.bad != nil:
			st.Error = s.bad.Error()
		}
		s.mu.Unlock()
		list = append(list, st)
	}
	return list
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

type metrics struct {
	orders *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{orders: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "helloapi_certificate_orders_total",
		Help: "Certificates ordered by this replica, by host and result.",
	}, []string{"host", "result"})}
}

var (
	expiryDesc = prometheus.NewDesc("helloapi_certificate_expiry_timestamp_seconds",
		"When the certificate that is served ends, as a Unix time; 0 while there is none.", []string{"host"}, nil)
	failuresDesc = prometheus.NewDesc("helloapi_certificate_failures",
		"Attempts in a row that brought no certificate, on all replicas.", []string{"host"}, nil)
	troubleDesc = prometheus.NewDesc("helloapi_certificate_trouble",
		"Whether something is wrong, as the operator's page tells; the certificate may be good all the same.", []string{"host"}, nil)
)

// Describe implements prometheus.Collector.
func (a *ACME) Describe(ch chan<- *prometheus.Desc) {
	describe(ch)
	a.metrics.orders.Describe(ch)
}

// Collect implements prometheus.Collector.
func (a *ACME) Collect(ch chan<- prometheus.Metric) {
	collect(ch, a.Statuses())
	a.metrics.orders.Collect(ch)
}

func describe(ch chan<- *prometheus.Desc) {
	ch <- expiryDesc
	ch <- failuresDesc
	ch <- troubleDesc
}

func collect(ch chan<- prometheus.Metric, list []Status) {
	for _, s := range list {
		expiry, trouble := 0.0, 0.0
		if !s.NotAfter.IsZero() {
			expiry = float64(s.NotAfter.Unix())
		}
		if s.Error != "" {
			trouble = 1
		}
		ch <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, expiry, s.Host)
		ch <- prometheus.MustNewConstMetric(failuresDesc, prometheus.GaugeValue, float64(s.Failures), s.Host)
		ch <- prometheus.MustNewConstMetric(troubleDesc, prometheus.GaugeValue, trouble, s.Host)
	}
}
