package plan

// Columns are the columns of the table plans that a Row is read from, with
// the table named p. A join may have none of them.
const Columns = `p.name, p.quota_limit, p.quota_period, p.quota_offset, p.quota_timezone, p.throttle_rate, p.throttle_burst`

// A Row is a plan as both databases keep it.
type Row struct {
	name, period, zone *string
	limit, burst       *int64
	offset             *int
	rate               *float64
}

// Dest returns where to scan Columns to.
func (r *Row) Dest() []any {
	return []any{&r.name, &r.limit, &r.period, &r.offset, &r.zone, &r.rate, &r.burst}
}

// Plan returns the plan, or nil if there was none.
func (r *Row) Plan() *Plan {
	if r.name == nil {
		return nil
	}
	p := &Plan{Name: *r.name}
	if r.limit != nil {
		p.Quota = &Quota{Limit: *r.limit, Period: Period(*r.period), Offset: *r.offset, Timezone: *r.zone}
	}
	if r.rate != nil {
		p.Throttle = &Throttle{Rate: *r.rate, Burst: *r.burst}
	}
	return p
}
