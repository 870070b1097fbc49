// Package openapi makes the contract of the API over HTTP: one OpenAPI document
// of what is written by hand. openapi.json, here, has what surrounds every
// endpoint, and the pages; an openapi.json beside its handler has what an
// endpoint adds. What follows from its entry in the map of endpoints is filled
// in: no endpoint has to repeat that it asks for a key.
package openapi

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

//go:embed openapi.json
var frame []byte

// An Endpoint is a route of the document.
type Endpoint struct {
	Method, Path string

	// Part is an OpenAPI document with the operation in its paths. It may have
	// those of other endpoints too, and components that they refer to.
	Part []byte

	Free       bool // costs no quota
	Idempotent bool // takes an Idempotency-Key
}

type object = map[string]any

// Document returns the contract. It fails, and names the endpoint, where a part
// lacks the operation of an endpoint, or has one that no endpoint has.
func Document(endpoints []Endpoint) ([]byte, error) {
	document, err := parse(frame)
	if err != nil {
		return nil, fmt.Errorf("internal/openapi/openapi.json: %w", err)
	}
	addHeads(child(document, "paths"))
	parts := map[string]object{} // by their text
	var errs []error
	for _, e := range endpoints {
		name := e.Method + " " + e.Path
		part, ok := parts[string(e.Part)]
		if !ok {
			if part, err = parse(e.Part); err != nil {
				errs = append(errs, fmt.Errorf("endpoint %s: its openapi.json: %w", name, err))
				continue
			}
			parts[string(e.Part)] = part
			errs = append(errs, addComponents(document, part, name))
		}
		operation, ok := child(child(part, "paths"), e.Path)[strings.ToLower(e.Method)].(object)
		if !ok {
			errs = append(errs, fmt.Errorf("endpoint %s: its openapi.json does not have it: describe it there, in paths", name))
			continue
		}
		delete(child(child(part, "paths"), e.Path), strings.ToLower(e.Method))
		e.complete(operation)
		item := child(child(document, "paths"), e.Path)
		if item["get"] != nil && item["head"] != nil {
			errs = append(errs, fmt.Errorf("endpoint %s: the path is that of a page: choose another", name))
			continue
		}
		item[strings.ToLower(e.Method)] = operation
	}
	for _, part := range parts {
		for path, item := range child(part, "paths") {
			for method := range item.(object) {
				errs = append(errs, fmt.Errorf("an openapi.json has %s %s, which no endpoint is: remove it there, or add the endpoint", strings.ToUpper(method), path))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	addHeaders(document)
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	err = out.Encode(document)
	return b.Bytes(), err
}

// parse reads a document, whose paths are objects.
func parse(text []byte) (object, error) {
	if len(text) == 0 {
		return nil, errors.New("there is none: write one beside the handler, and set the endpoint's OpenAPI")
	}
	var document object
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	for path, item := range child(document, "paths") {
		if _, ok := item.(object); !ok {
			return nil, fmt.Errorf("%s must be an object of methods", path)
		}
	}
	return document, nil
}

// child returns a member that is an object, and makes it if there is none.
func child(o object, name string) object {
	c, ok := o[name].(object)
	if !ok {
		c = object{}
		o[name] = c
	}
	return c
}

// ref refers to a component.
func ref(kind, name string) object { return object{"$ref": "#/components/" + kind + "/" + name} }

// addComponents takes the components of a part.
func addComponents(document, part object, endpoint string) error {
	var errs []error
	for kind, all := range child(part, "components") {
		all, ok := all.(object)
		if !ok {
			return fmt.Errorf("endpoint %s: its openapi.json: components/%s must be an object", endpoint, kind)
		}
		to := child(child(document, "components"), kind)
		for name, component := range all {
			if there, ok := to[name]; ok && !reflect.DeepEqual(there, component) {
				errs = append(errs, fmt.Errorf("endpoint %s: its openapi.json: components/%s/%s is there already, and differs: choose another name", endpoint, kind, name))
			}
			to[name] = component
		}
	}
	return errors.Join(errs...)
}

var parameter = regexp.MustCompile(`\{([^}]*)\}`)

// complete fills in what follows from the endpoint's entry in the map.
func (e Endpoint) complete(operation object) {
	if operation["tags"] == nil {
		operation["tags"] = []any{"Endpoints"}
	}
	responses := child(operation, "responses")
	for status, response := range responses {
		response, ok := response.(object)
		if !ok || response["$ref"] != nil {
			continue
		}
		code, _ := strconv.Atoi(status)
		if code >= http.StatusBadRequest && response["content"] == nil {
			response["content"] = object{"application/json": object{"schema": ref("schemas", "Message")}}
		}
		headers := child(response, "headers")
		if code == http.StatusCreated {
			headers["Location"] = ref("headers", "Location")
		}
		if code == http.StatusConflict && e.Idempotent {
			headers["Retry-After"] = ref("headers", "Retry-After")
		}
		if !e.Free {
			headers["RateLimit"] = ref("headers", "RateLimit")
			headers["RateLimit-Policy"] = ref("headers", "RateLimit-Policy")
		}
	}

	statuses := map[string]string{"403": "Forbidden", "429": "TooManyRequests", "500": "InternalServerError", "503": "ServiceUnavailable"}
	var parameters []any
	for _, name := range parameter.FindAllStringSubmatch(e.Path, -1) {
		statuses["404"] = "NotFound"
		parameters = append(parameters, object{"name": name[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	if operation["requestBody"] != nil || e.Idempotent {
		statuses["400"], statuses["408"], statuses["413"] = "BadRequest", "RequestTimeout", "ContentTooLarge"
	}
	if operation["requestBody"] != nil {
		statuses["415"] = "UnsupportedMediaType"
	}
	if e.Idempotent {
		statuses["409"], statuses["422"] = "Conflict", "UnprocessableContent"
		parameters = append(parameters, ref("parameters", "Idempotency-Key"))
	}
	for status, name := range statuses {
		if responses[status] == nil {
			responses[status] = ref("responses", name)
		}
	}
	own, _ := operation["parameters"].([]any)
	for _, p := range parameters {
		same := func(o any) bool {
			given, _ := o.(object)
			return given["$ref"] == nil && given["in"] == p.(object)["in"] && given["name"] == p.(object)["name"]
		}
		if !slices.ContainsFunc(own, same) {
			own = append(own, p)
		}
	}
	if own != nil {
		operation["parameters"] = own
	}
}

// addHeads adds the HEAD of each GET of a page: the same without a body.
func addHeads(paths object) {
	for _, item := range paths {
		get, ok := item.(object)["get"].(object)
		if !ok {
			continue
		}
		head := maps.Clone(get)
		head["operationId"] = fmt.Sprint(get["operationId"], "Head")
		head["summary"] = fmt.Sprint(get["summary"], ", without a body")
		responses := object{}
		for status, response := range child(get, "responses") {
			r := maps.Clone(response.(object))
			delete(r, "content")
			if r["headers"] != nil {
				r["headers"] = maps.Clone(child(r, "headers"))
			}
			responses[status] = r
		}
		head["responses"] = responses
		item.(object)["head"] = head
	}
}

// everyAnswer are the headers of every answer, by the names of components.
var everyAnswer = []string{
	"X-Request-Id", "X-Content-Type-Options", "Cache-Control", "Vary",
	"Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Strict-Transport-Security",
}

// addHeaders adds the headers of every answer to every answer.
func addHeaders(document object) {
	add := func(responses object) {
		for _, response := range responses {
			if response := response.(object); response["$ref"] == nil {
				for _, name := range everyAnswer {
					if headers := child(response, "headers"); headers[name] == nil {
						headers[name] = ref("headers", name)
					}
				}
			}
		}
	}
	add(child(child(document, "components"), "responses"))
	for _, item := range child(document, "paths") {
		for _, operation := range item.(object) {
			add(child(operation.(object), "responses"))
		}
	}
}
