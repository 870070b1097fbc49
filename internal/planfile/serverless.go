package planfile

import (
	"slices"

	"go.yaml.in/yaml/v4"
)

// serverless reads apiKeys and usagePlan of a serverless.yml. They are in
// provider.apiGateway, or in provider, where versions up to 2 had them.
func (d *decoder) serverless(r *resolver) {
	keys, plans := d.places(r)
	if keys == nil && plans == nil {
		if len(d.list) == 0 {
			d.add(r.root.at(), "there is no apiKeys and no usagePlan in provider.apiGateway, nor in provider: there is nothing to apply")
		}
		return
	}
	service := ""
	if v := r.service(); v.Node != nil && v.Kind == yaml.ScalarNode {
		service = v.Value
	}
	if service != "" && r.stage() != "" {
		d.file.Source = "service:" + service + "-" + r.stage()
	}
	if plans != nil && plans.kind == list {
		d.listedPlans(plans)
		d.groupedKeys(keys)
		return
	}

	// One plan, for all keys.
	name := service + "-" + r.stage()
	if service == "" && len(d.list) == 0 {
		d.add(r.root.at(), "the only usage plan is called SERVICE-STAGE, and this file has no service: add service: NAME")
	} else if r.stage() == "" {
		d.add(r.root.at(), "the only usage plan is called SERVICE-STAGE, and the stage can't be known: add --stage STAGE")
	}
	switch {
	case plans == nil:
		p := Plan{Place: keys.Place}
		p.Name = name
		d.file.Plans = append(d.file.Plans, p)
	case plans.kind != mapping:
		d.wrong(plans, "usagePlan must have quota and throttle, or a list of plans (- free: …), under it")
	default:
		d.plan(name, plans.Place, plans)
	}
	for _, item := range d.list1(keys, "apiKeys") {
		if !isGroup(item) {
			d.key(item, name)
			continue
		}
		for _, e := range item.fields {
			d.add(e.Place, "API key %q has no usage plan defined: make usagePlan a list with %s (- %s: …), or list its keys without a group", e.key, e.key, e.key)
		}
	}
}

// places returns apiKeys and usagePlan, wherever they are. Empty ones are like
// those that are not there.
func (d *decoder) places(r *resolver) (keys, plans *node) {
	provider := r.setting(r.root, "provider")
	gateway := r.setting(provider, "apiGateway")
	find := func(v raw, name string) *entry {
		if v.Node != nil && v.Kind == yaml.MappingNode {
			entries := r.entries(v)
			if i := slices.IndexFunc(entries, func(e entry) bool { return e.key == name }); i >= 0 && entries[i].value.Tag != "!!null" {
				return &entries[i]
			}
		}
		return nil
	}
	var old []string
	pick := func(name string) *node {
		e, older := find(gateway, name), find(provider, name)
		switch {
		case e != nil && older != nil:
			d.file.Notices = append(d.file.Notices, "provider.apiGateway."+name+" is used; provider."+name+" is ignored, as serverless does")
		case older != nil:
			old, e = append(old, name), older
		case e == nil:
			return nil
		}
		if n := r.tree(e.value); n.kind != null {
			return n
		}
		return nil
	}
	keys, plans = pick("apiKeys"), pick("usagePlan")
	if len(old) > 0 {
		d.file.Notices = append(d.file.Notices, enumerate(old)+" are in provider, where version 2 of serverless had them; later versions ignore them there and want them in provider.apiGateway")
	}
	if v := r.setting(gateway, "apiKeySourceType"); v.Node != nil && v.Value != "HEADER" {
		d.file.Notices = append(d.file.Notices, "provider.apiGateway.apiKeySourceType is ignored: keys are read from the header x-api-key")
	}
	return keys, plans
}

// list1 returns the items of a list, or the one that a text alone stands for.
func (d *decoder) list1(n *node, what string) []*node {
	switch {
	case n == nil || n.kind == null:
		return nil
	case n.kind == text:
		return []*node{n}
	case n.kind != list:
		d.wrong(n, "%s must be a list: begin each line with a dash (- NAME), or write [] for none", what)
	}
	return n.items
}

// listedPlans reads a usagePlan that is a list of plans, each a mapping of its
// name to its settings. The settings of a plan may be in several items.
func (d *decoder) listedPlans(n *node) {
	var plans []field
	for _, item := range n.items {
		f, ok := d.planItem(item)
		if !ok {
			continue
		}
		i := slices.IndexFunc(plans, func(p field) bool { return p.key == f.key })
		if i < 0 || plans[i].value.kind != mapping || f.value.kind != mapping {
			plans = append(plans, f)
			continue
		}
		merged := *plans[i].value
		for _, s := range f.value.fields {
			if merged.get(s.key) != nil {
				d.add(s.Place, "plan %q has its %s on line %d already", f.key, s.key, plans[i].Line)
				continue
			}
			merged.fields = append(slices.Clip(merged.fields), s)
		}
		plans[i].value = &merged
	}
	for _, p := range plans {
		d.plan(p.key, p.Place, p.value)
	}
}

// planItem returns the one plan of an item of the list.
func (d *decoder) planItem(n *node) (field, bool) {
	var plans, stray []field
	for _, f := range n.fields {
		if f.key == "quota" || f.key == "throttle" || indent[f.key] != "" {
			stray = append(stray, f)
		} else {
			plans = append(plans, f)
		}
	}
	switch {
	case len(plans) == 0 && len(stray) > 0:
		d.add(stray[0].Place, "an item of the list usagePlan must name its plan: - NAME: with %s indented under it; one plan for all keys is no list", stray[0].key)
		return field{}, false
	case len(plans) == 0:
		d.wrong(n, "usagePlan: an item of the list must be a plan: - NAME: with quota and throttle under it")
		return field{}, false
	}
	for _, f := range stray {
		d.add(f.Place, "%s must be indented under %s:", f.key, plans[0].key)
	}
	for _, f := range plans[1:] {
		d.add(f.Place, "plan %q must be an item of its own: - %s:", f.key, f.key)
	}
	return plans[0], len(stray) == 0 && len(plans) == 1
}

// isGroup reports whether an item of apiKeys is a group of keys, and not a key.
func isGroup(n *node) bool {
	return slices.ContainsFunc(n.fields, func(f field) bool {
		return f.value.kind == list || !slices.Contains(keySettings, f.key) && (len(n.fields) == 1 || f.value.kind == null)
	})
}

// groupedKeys reads an apiKeys whose keys are in groups, each for the plan of
// its name.
func (d *decoder) groupedKeys(keys *node) {
	mistakes := len(d.list) // with some, a plan may be missing for another reason
	example := "PLAN"
	if len(d.file.Plans) > 0 {
		example = d.file.Plans[0].Name
	}
	for _, item := range d.list1(keys, "apiKeys") {
		switch {
		case item.kind == text, item.kind == mapping && !isGroup(item):
			d.add(item.Place, "this key is in no group, and usagePlan is a list of plans: list the key in the group of its plan, as under - %s:", example)
			continue
		case item.kind != mapping:
			d.wrong(item, "apiKeys: an item of the list must be a group of keys: - PLAN: with a list of keys under it")
			continue
		}
		for i, e := range item.fields {
			switch {
			case i > 0 && slices.Contains(keySettings, e.key):
				d.add(e.Place, "%s must be indented under %s: and a dash", e.key, item.fields[0].key)
			case i > 0:
				d.add(e.Place, "group %q must be an item of its own: - %s:", e.key, e.key)
			case mistakes == 0 && !slices.ContainsFunc(d.file.Plans, func(p Plan) bool { return p.Name == e.key }):
				d.add(e.Place, "API key %q has no usage plan defined: add a plan - %s: to usagePlan, or correct the name", e.key, e.key)
			default:
				for _, k := range d.list1(e.value, "group "+e.key) {
					d.key(k, e.key)
				}
			}
		}
	}
}
