// Package openapi is the contract of the API over HTTP, as an OpenAPI document.
package openapi

import _ "embed"

// Document is the contract.
//
//go:embed openapi.json
var Document []byte
