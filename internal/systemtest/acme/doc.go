// Package acme tests certificates against Pebble, the test CA of Let's Encrypt,
// which runs in the test's own process and asks for its challenges over TCP.
package acme
