package planfile

import (
	"slices"
	"strconv"

	"go.yaml.in/yaml/v4"
)

// serverless reads apiKeys and usagePlan of a serverless.yml. They stand in
// provider.apiGateway, or in provider, where versions up to 2 had them.
func (r *reader) serverless(f *File, top []entry) {
	keys, usagePlan := r.places(f)
	if keys == nil && usagePlan == nil {
		if len(r.list) == 0 {
			r.add(r.root.Line, "there is no apiKeys and no usagePlan in provider.apiGateway, nor in provider: there is nothing to apply")
		}
		return
	}
	service := r.service(top)
	if service != "" && r.stage() != "" {
		f.Source = "service:" + service + "-" + r.stage()
	}

	if usagePlan != nil {
		if usagePlan = r.resolve(usagePlan, "usagePlan"); usagePlan == nil {
			return
		}
		if usagePlan.Kind == yaml.SequenceNode {
			r.listedPlans(f, usagePlan)
			r.groupedKeys(f, keys)
			return
		}
	}

	// One plan, for all keys.
	name := service + "-" + r.stage()
	if service == "" {
		r.add(r.root.Line, "the only usage plan is called SERVICE-STAGE, and this file has no service: add service: NAME")
	} else if r.stage() == "" {
		r.add(r.root.Line, "the only usage plan is called SERVICE-STAGE, and the stage can't be known: add --stage STAGE")
	}
	switch {
	case usagePlan == nil:
		f.Plans = append(f.Plans, Plan{Line: keys.Line})
		f.Plans[0].Name = name
	case isNull(usagePlan):
		r.add(usagePlan.Line, "usagePlan is empty: indent its settings under it, write {} for a plan without limits, or take it out")
	case usagePlan.Kind != yaml.MappingNode:
		r.add(usagePlan.Line, "usagePlan must have quota and throttle, or a list of plans (- free: …), under it")
	default:
		r.onlyPlan(f, name, usagePlan)
	}
	if keys == nil {
		return
	}
	for _, item := range r.items(keys, "apiKeys") {
		if group, ok := r.group(item); ok {
			for _, e := range group {
				r.add(e.line, "API key %q has no usage plan defined: make usagePlan a list with %s (- %s: …), or list its keys without a group", e.key, e.key, e.key)
			}
			continue
		}
		r.key(f, item, name, false)
	}
}

// service returns the name of the service, or "" if the file has none.
func (r *reader) service(top []entry) string {
	n := find(top, "service")
	if n == nil {
		return ""
	}
	if n = r.resolve(n, "service"); n == nil {
		return ""
	}
	if n.Kind == yaml.MappingNode { // the form of version 1
		if n = find(r.entries(n), "name"); n == nil {
			return ""
		}
	}
	s, _, _ := r.text(n, "service")
	return s
}

// places returns what stands for apiKeys and usagePlan, wherever it does.
func (r *reader) places(f *File) (keys, usagePlan *yaml.Node) {
	var older, newer []entry
	n := find(r.entries(r.root), "provider")
	if n == nil {
		return nil, nil
	}
	if n = r.resolve(n, "provider"); n == nil || n.Kind != yaml.MappingNode {
		return nil, nil
	}
	older = r.entries(n)
	if n = find(older, "apiGateway"); n != nil {
		if n = r.resolve(n, "provider.apiGateway"); n == nil {
			return nil, nil
		}
		if n.Kind == yaml.MappingNode {
			newer = r.entries(n)
		}
	}
	var old []string
	pick := func(setting string) *yaml.Node {
		a, b := find(newer, setting), find(older, setting)
		switch {
		case a != nil && b != nil:
			f.Notices = append(f.Notices, "provider.apiGateway."+setting+" is used; provider."+setting+" is ignored, as serverless does")
		case b != nil:
			old = append(old, setting)
			return b
		}
		return a
	}
	keys, usagePlan = pick("apiKeys"), pick("usagePlan")
	if len(old) > 0 {
		f.Notices = append(f.Notices, list(old)+" stand in provider, where version 2 of serverless had them; later ones ignore them there and want them in provider.apiGateway")
	}
	if n := find(newer, "apiKeySourceType"); n != nil && r.alias(n).Value != "HEADER" {
		f.Notices = append(f.Notices, "provider.apiGateway.apiKeySourceType is ignored: keys are read from the header x-api-key")
	}
	return keys, usagePlan
}

// onlyPlan reads a usagePlan that is one plan.
func (r *reader) onlyPlan(f *File, name string, n *yaml.Node) {
	settings := r.entries(n)
	for _, e := range settings {
		switch e.key {
		case "quota", "throttle":
		case "limit", "period", "offset":
			r.add(e.line, "%s must be indented under quota:", e.key)
		case "rateLimit", "burstLimit":
			r.add(e.line, "%s must be indented under throttle:", e.key)
		default:
			r.add(e.line, "usagePlan has no setting %q, only quota and throttle; several plans are a list: - %s: …", e.key, e.key)
		}
	}
	r.plan(f, name, n.Line, settings, false)
}

// listedPlans reads a usagePlan that is a list of plans, each a mapping of its
// name to its settings. The settings of a plan may stand in several items.
func (r *reader) listedPlans(f *File, n *yaml.Node) {
	type listed struct {
		name     string
		line     int
		settings []entry
	}
	var plans []*listed
	byName := map[string]*listed{}
	for _, item := range n.Content {
		e, ok := r.planItem(item)
		if !ok {
			continue
		}
		what := "plan " + strconv.Quote(e.key)
		settings, ok := r.planSettings(e, what)
		if !ok || !r.unknown(settings, what, "quota", "throttle") {
			continue
		}
		p := byName[e.key]
		if p == nil {
			p = &listed{name: e.key, line: e.line}
			byName[e.key], plans = p, append(plans, p)
		}
		for _, s := range settings {
			if find(p.settings, s.key) != nil {
				r.add(s.line, "%s has its %s on line %d already", what, s.key, p.line)
				continue
			}
			p.settings = append(p.settings, s)
		}
	}
	for _, p := range plans {
		r.plan(f, p.name, p.line, p.settings, false)
	}
}

// planItem returns the one plan of an item of the list.
func (r *reader) planItem(item *yaml.Node) (entry, bool) {
	item = r.resolve(item, "usagePlan")
	if item == nil {
		return entry{}, false
	}
	if item.Kind != yaml.MappingNode || len(item.Content) == 0 {
		r.add(item.Line, "usagePlan: an item of the list must be a plan: - NAME: with quota and throttle under it")
		return entry{}, false
	}
	var plans, stray []entry
	for _, e := range r.entries(item) {
		switch e.key {
		case "quota", "throttle", "limit", "period", "offset", "rateLimit", "burstLimit":
			stray = append(stray, e)
		default:
			plans = append(plans, e)
		}
	}
	switch {
	case len(stray) > 0 && len(plans) == 0:
		r.add(stray[0].line, "an item of the list usagePlan must name its plan: - NAME: with %s indented under it; one plan for all keys is no list", stray[0].key)
		return entry{}, false
	case len(stray) > 0:
		for _, e := range stray {
			r.add(e.line, "%s must be indented under %s:", e.key, plans[0].key)
		}
		return entry{}, false
	case len(plans) > 1:
		for _, e := range plans[1:] {
			r.add(e.line, "plan %q must be an item of its own: - %s:", e.key, e.key)
		}
		return entry{}, false
	case len(plans) == 0:
		r.add(item.Line, "usagePlan: an item of the list must be a plan: - NAME: with quota and throttle under it")
		return entry{}, false
	}
	return plans[0], true
}

// group returns the groups of keys that an item of apiKeys is, or false if it
// is a key.
func (r *reader) group(item *yaml.Node) ([]entry, bool) {
	item = r.alias(item)
	if item.Kind != yaml.MappingNode || isFunction(item) {
		return nil, false
	}
	entries := r.entries(item)
	for _, e := range entries {
		// A setting has a text. A group has a list, or is meant to be one where
		// its name is no setting of a key and nothing stands behind it.
		n := r.alias(e.value)
		if n.Kind == yaml.SequenceNode || isNull(n) && !slices.Contains(keySettings, e.key) {
			return entries, true
		}
		if !slices.Contains(keySettings, e.key) && n.Kind == yaml.ScalarNode {
			// A variable may stand for a list.
			if v := r.resolve(n, "apiKeys"); v != nil && v.Kind == yaml.SequenceNode {
				return entries, true
			}
		}
	}
	return nil, false
}

// groupedKeys reads an apiKeys whose keys stand in groups, each for the plan
// of its name.
func (r *reader) groupedKeys(f *File, keys *yaml.Node) {
	if keys == nil {
		return
	}
	plans := map[string]bool{}
	for _, p := range f.Plans {
		plans[p.Name] = true
	}
	good := len(r.list) == 0 // else a plan may be missing for another reason
	for _, item := range r.items(keys, "apiKeys") {
		item = r.resolve(item, "apiKeys")
		if item == nil {
			continue
		}
		group, ok := r.group(item)
		switch {
		case !ok && item.Kind != yaml.ScalarNode && item.Kind != yaml.MappingNode:
			r.add(item.Line, "apiKeys: an item of the list must be a group of keys: - PLAN: with a list of keys under it")
			continue
		case !ok:
			r.looseKey(f, item)
			continue
		}
		for i, e := range group {
			if i > 0 {
				if slices.Contains(keySettings, e.key) {
					r.add(e.line, "%s must be indented under %s: and a dash", e.key, group[0].key)
				} else {
					r.add(e.line, "group %q must be an item of its own: - %s:", e.key, e.key)
				}
				continue
			}
			if good && !plans[e.key] {
				r.add(e.line, "API key %q has no usage plan defined: add a plan - %s: to usagePlan, or correct the name", e.key, e.key)
				continue
			}
			n := r.resolve(e.value, "group "+strconv.Quote(e.key))
			if n == nil {
				continue
			}
			if isNull(n) {
				r.add(e.line, "group %q is empty: indent its keys under it (- NAME), or write [] for none", e.key)
				continue
			}
			for _, k := range r.items(n, "group "+strconv.Quote(e.key)) {
				r.key(f, k, e.key, false)
			}
		}
	}
}

// looseKey reports a key that stands beside groups: which plan is it on?
func (r *reader) looseKey(f *File, item *yaml.Node) {
	example := "PLAN"
	if len(f.Plans) > 0 {
		example = f.Plans[0].Name
	}
	r.add(item.Line, "this key is in no group, and usagePlan is a list of plans: list the key in the group of its plan, as under - %s:", example)
}
