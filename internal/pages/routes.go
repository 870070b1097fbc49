package pages

import (
	"net/http"
	"strings"

	"helloapi/internal/web"
)

// assets is where the assets are. Which there are is not part of the contract:
// they have one route.
const assets = "/assets/"

// Routes returns what answers GET and HEAD of each route.
func Routes(all []*Page) map[string]http.Handler {
	routes, byPath := map[string]http.Handler{}, map[string]*Page{}
	for _, p := range all {
		if strings.HasPrefix(p.Path, assets) {
			byPath[p.Path] = p
		} else {
			routes[p.Path] = p
		}
	}
	routes[assets+"{name}"] = web.Handler(func(w http.ResponseWriter, r *http.Request) error {
		p := byPath[web.RoutePath(r.URL)]
		if p == nil {
			return web.NoRoute(w, r)
		}
		p.ServeHTTP(w, r)
		return nil
	})
	return routes
}
