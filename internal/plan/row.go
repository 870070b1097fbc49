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

// Row returns the values of Columns, as both databases take them.
func (p Plan) Row() []any {
	row := []any{p.Name, nil, nil, 0, "UTC", nil, nil}
	if q := p.Quota; q != nil {
		row[1], row[2], row[3] = q.Limit, string(q.Period), q.Offset
		if q.Timezone != "" {
			row[4] = q.Timezone
		}
	}
	if t := p.Throttle; t != nil {
		row[5], row[6] = t.Rate, t.Burst
	}
	return row
}
