package http

import (
	"strings"
	"testing"
)

func TestTheMostConcreteRouteIsFound(t *testing.T) {
	o, err := ParseRoutes([]string{
		"GET /", "GET /invoices", "GET /invoices/", "GET /invoices/{id}", "GET /invoices/latest", "POST /invoices/{id}:pay", "POST /invoices/{id}",
		"GET /{any}/{thing}", "GET /files/{name}.json", "DELETE /invoices/{id}?force&reason",
	})
	if err != nil {
		t.Fatal(err)
	}
	for asked, want := range map[string]string{
		"GET /":                 "/",
		"GET /invoices":         "/invoices",
		"GET /invoices/":        "/invoices/",
		"GET /invoices/7":       "/invoices/{id}",
		"GET /invoices/latest":  "/invoices/latest",
		"GET /invoices/Latest":  "/invoices/{id}",
		"POST /invoices/7:pay":  "/invoices/{id}:pay",
		"POST /invoices/7":      "/invoices/{id}",
		"POST /invoices/:pay":   "/invoices/{id}",
		"GET /x/y":              "/{any}/{thing}",
		"GET /files/a.json":     "/files/{name}.json",
		"GET /files/.json":      "/{any}/{thing}",
		"DELETE /invoices/7":    "/invoices/{id}",
		"PUT /invoices/7":       "",
		"GET /invoices/7/lines": "",
		"GET /invoices/7/":      "",
		"GET /x":                "",
	} {
		method, path, _ := strings.Cut(asked, " ")
		got := ""
		if r := o.find(method, path); r != nil {
			got = r.Path
		}
		if got != want {
			t.Errorf("%s is %q, want %q", asked, got, want)
		}
	}
}

func TestRoutesThatAreRefused(t *testing.T) {
	for _, lines := range [][]string{
		{"/x"}, {"get /x"}, {"TRACE /x"}, {"GET x"}, {"GET /a//b"}, {"GET /{a}{b}"}, {"GET /{a"}, {"GET /a}"}, {"GET /a b"}, {"GET /a#b"},
		{"GET /a/{b}", "GET /a/{c}"}, {"GET /a", "GET /a"}, {"GET /" + strings.Repeat("x", 2000)},
	} {
		if _, err := ParseRoutes(lines); err == nil {
			t.Errorf("%q was taken", lines)
		}
	}
}

func TestOperationsOfADocument(t *testing.T) {
	o, err := ParseOpenAPI([]byte(`
openapi: 3.0.3
info: {title: Billing, version: "1"}
paths:
  /invoices:
    parameters: [{$ref: "#/components/parameters/page"}]
    get:
      operationId: listInvoices
      parameters: [{name: limit, in: query, schema: {type: integer}}]
      responses: {"200": {description: ok}}
  /invoices/{id}:
    delete:
      operationId: deleteInvoice
      responses: {"204": {description: gone}}
components:
  parameters:
    page: {name: page, in: query, schema: {type: string}}
`))
	if err != nil {
		t.Fatal(err)
	}
	list := o.find("GET", "/invoices")
	if list == nil || list.ID != "listInvoices" || strings.Join(list.Query, " ") != "limit page" {
		t.Errorf("the list is %+v", list)
	}
	if d := o.find("DELETE", "/invoices/7"); d == nil || d.ID != "deleteInvoice" {
		t.Errorf("the deletion is %+v", d)
	}
	for name, text := range map[string]string{
		"empty":    "openapi: 3.0.3\ninfo: {title: x, version: '1'}\npaths: {}\n",
		"version":  "swagger: '2.0'\npaths: {/a: {get: {responses: {}}}}\n",
		"not YAML": "{",
		"outside":  "openapi: 3.0.3\ninfo: {title: x, version: '1'}\npaths: {/a: {$ref: 'file:///etc/passwd'}}\n",
	} {
		if _, err := ParseOpenAPI([]byte(text)); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}
