// Package systemtest has the tests that need heavy modules: a test CA, the
// Kubernetes API types, a validator of JSON Schema, the protocol of Chromium. It
// is a module of its own, so that none of them is in the product's go.mod.
package systemtest
