package planfile

import (
	"context"
	"errors"
	"slices"
	"time"
)

// A Store is a database that files are applied to.
type Store interface {
	// PlanState returns every plan, and the keys in scope. It waits for nobody.
	PlanState(ctx context.Context, scope Scope) (State, error)

	// ApplyPlans has decide compare the current state with a file, and makes
	// the changes that it returns, in one transaction: all or, after any error,
	// none. Nothing else changes plans or keys meanwhile; of several calls, by
	// whatever process, the others wait.
	ApplyPlans(ctx context.Context, scope Scope, decide func(State) (Changes, error)) error
}

// ApplyOptions say how to apply a file.
type ApplyOptions struct {
	DryRun     bool // only look
	Prune      bool // remove what earlier versions of the file made and this one does not have
	DropLimits bool // limits may be taken from a plan with keys
	TakeOver   bool // what belongs to another file may be changed

	// Confirm, if not nil, is called with changes that remove or replace
	// something for good, before any is made and while others can make theirs.
	// If it fails, none is made.
	Confirm func(Changes) error

	// KeepValues, if not nil, gets the values that were made, before the keys
	// are. If it fails, none are.
	KeepValues func([]NewValue) error
}

// Apply makes a database agree with a file. It returns what was changed, or,
// of a dry run, what would be.
func Apply(ctx context.Context, store Store, f *File, opts ApplyOptions) (c Changes, err error) {
	var confirmed Changes
	if opts.DryRun || opts.Confirm != nil {
		s, err := store.PlanState(ctx, f.Scope())
		if err != nil {
			return Changes{}, err
		}
		if confirmed, err = f.Diff(s, opts, time.Now()); err != nil || opts.DryRun {
			return confirmed, err
		}
		if confirmed.lose() {
			if err := opts.Confirm(confirmed); err != nil {
				return Changes{}, err
			}
		}
	}
	err = store.ApplyPlans(ctx, f.Scope(), func(s State) (_ Changes, err error) {
		if c, err = f.Diff(s, opts, time.Now()); err != nil {
			return Changes{}, err
		}
		if opts.Confirm != nil && !c.loseAs(confirmed) {
			return Changes{}, errors.New("plans or keys were changed meanwhile, and it would remove or replace others now than those that were confirmed: apply it again")
		}
		if made := c.Made(); opts.KeepValues != nil && len(made) > 0 {
			err = opts.KeepValues(made)
		}
		return c, err
	})
	if err != nil {
		return Changes{}, err
	}
	return c, nil
}

// lose reports whether c removes or replaces something for good.
func (c Changes) lose() bool {
	return len(c.DropKeys)+len(c.DropPlans)+len(c.SetValues) > 0
}

// loseAs reports whether c removes and replaces the same for good as other.
func (c Changes) loseAs(other Changes) bool {
	return slices.Equal(c.DropKeys, other.DropKeys) && slices.Equal(c.DropPlans, other.DropPlans) &&
		slices.EqualFunc(c.SetValues, other.SetValues, func(a, b NewValue) bool { return a.Key.ID == b.Key.ID })
}

// Made returns the values that were made here, and are nowhere else.
func (c Changes) Made() (made []NewValue) {
	for _, v := range c.AddKeys {
		if v.Made {
			made = append(made, v)
		}
	}
	return made
}
