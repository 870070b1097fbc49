package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A body that stalls is answered within REQUEST_TIMEOUT, costs nothing, and
// leaves its place in flight to others.
func TestBodyStalls(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), "REQUEST_TIMEOUT=1s", "MAX_IN_FLIGHT=1")
	key := p.keys(t)[0]
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	begin := time.Now()
	_ = conn.SetDeadline(begin.Add(20 * time.Second))
	fmt.Fprintf(conn, "GET /hello?name=a HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example.com\r\nX-Api-Key: %s\r\n"+
		"Idempotency-Key: one\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\nabc", key)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusRequestTimeout || string(body) != `{"message":"The body did not arrive in time"}` ||
		resp.Header.Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("answered %d %s %v %v", resp.StatusCode, body, err, resp.Header)
	}
	if took < 500*time.Millisecond || took > 3*time.Second {
		t.Errorf("answered after %v, want about 1s", took)
	}
	if a := get(t, "http://"+p.addr+"/hello?name=a", key); a.status != http.StatusOK || !strings.Contains(a.header.Get("RateLimit"), "r=4") {
		t.Errorf("afterwards: %d %s %v", a.status, a.body, a.header)
	}
}
