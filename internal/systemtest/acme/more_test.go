package acme

import (
	"encoding/base64"
	"flag"
	"log/slog"
	"os"
	"testing"

	"golang.org/x/crypto/acme"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// They wait more than they compute.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	code := m.Run()
	cleanUp()
	os.Exit(code)
}

var discard = slog.New(slog.DiscardHandler)

func externalAccount(t *testing.T) *acme.ExternalAccountBinding {
	t.Helper()
	key, err := base64.RawURLEncoding.DecodeString(eabKey)
	if err != nil {
		t.Fatal(err)
	}
	return &acme.ExternalAccountBinding{KID: eabID, Key: key}
}
