package meter

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"helloapi/internal/limits"
	"helloapi/internal/plan"
	"helloapi/internal/web"
)

// room is enough for a header's value: then it takes no memory but its own.
// Names are as http.Header has them, so that none has to be made of ours.
const room = 96

// setPolicy tells the client its limits, as draft-ietf-httpapi-ratelimit-headers
// has it: q is the limit and w the length of its window in seconds. For the
// throttle q is the bucket's size and w the time it takes to fill.
func setPolicy(h http.Header, d limits.Decision) {
	v := make([]byte, 0, room)
	if d.HasQuota {
		v = appendItem(v, limits.Quota, "q", d.Limit, "w", int64(d.Window.Length()/time.Second))
	}
	if t := d.Throttle; t != nil {
		if d.HasQuota {
			v = append(v, ", "...)
		}
		v = appendItem(v, limits.Throttle, "q", t.Burst, "w", int64(math.Ceil(float64(t.Burst)/t.Rate)))
	}
	if len(v) > 0 {
		h["Ratelimit-Policy"] = []string{string(v)}
	}
}

// setRemaining tells the client how much is left of the limit, and in how many
// seconds there will be more.
func setRemaining(h http.Header, limit limits.Limit, remaining int64, reset time.Duration) {
	v := appendItem(make([]byte, 0, room), limit, "r", remaining, "t", web.Seconds(reset))
	h["Ratelimit"] = []string{string(v)}
}

// appendItem appends a structured field's item (RFC 9651): "name";a=1;b=2. Its
// integers have at most 15 digits; what is more, by grants, is shown as that.
func appendItem(v []byte, name limits.Limit, a string, av int64, b string, bv int64) []byte {
	v = append(append(append(v, '"'), name...), `";`...)
	v = append(append(v, a...), '=')
	v = strconv.AppendInt(v, min(av, plan.MaxLimit), 10)
	v = append(append(append(v, ';'), b...), '=')
	return strconv.AppendInt(v, min(bv, plan.MaxLimit), 10)
}
