package admin

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"helloapi/internal/certs"
)

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{"left": left}).Parse(pageHTML))

// page shows an operator how this replica is.
func (c Config) page(w http.ResponseWriter, r *http.Request) error {
	data := struct {
		Version      string
		Now          time.Time
		Unready      error
		About        [][2]string
		TLS          bool
		Certificates []certs.Status
	}{Version: c.Version, Now: time.Now().UTC(), Unready: c.unready(r.Context()), About: c.About()}
	if c.Certificates != nil {
		data.TLS, data.Certificates = true, c.Certificates()
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, data); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	_, err := w.Write(b.Bytes())
	return err
}

// left says how long it is from now until t.
func left(now, t time.Time) string {
	d := t.Sub(now)
	switch {
	case t.IsZero():
		return "–"
	case d < 0:
		return "over since " + t.UTC().Format(time.RFC3339)
	case d < 2*time.Hour:
		return "in " + d.Round(time.Second).String()
	case d < 48*time.Hour:
		return fmt.Sprintf("in %.0f hours", d.Hours())
	}
	return fmt.Sprintf("in %.0f days", d.Hours()/24)
}
