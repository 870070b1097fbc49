// Package systemtest has the tests that need heavy modules: a test CA, a
// JSON Schema validator, the Kubernetes API types. It is a module of its own, so that none of them is in
// the product's go.mod.
package systemtest
