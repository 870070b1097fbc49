// Package planfile reads the files that say which plans and keys there are: a
// plans file of helloapi's own, a serverless.yml as it is, and listings of
// keys. Apply makes a database agree with one.
//
// Reading has two passes. A resolver follows aliases, variables and included
// files, and makes a plain tree (node) that keeps files and lines. A decoder
// makes plans and keys of that. Both report to one list of mistakes.
//
// Reading is strict about plans and keys, and blind to everything else in a
// serverless.yml. Every mistake names the line; none quotes what may be a
// key's value.
package planfile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"helloapi/internal/apikey"
	"helloapi/internal/plan"
)

// MaxSize is the size of the largest file that is read, in bytes.
const MaxSize = 16 << 20

// Options say what a file can't say by itself.
type Options struct {
	Stage string                   // of ${opt:stage} and ${sls:stage}; "": the file's own
	Opts  map[string]string        // of ${opt:NAME}
	Env   func(name string) string // of ${env:NAME}; "" for a variable that is not set

	// Path is the file's absolute path: it tells a file without a name of its
	// own apart from others, and included files are in its folder. "" for none.
	Path         string
	OutsideFiles bool // included files may be in other folders
}

// A File is what a file says.
type File struct {
	Name    string // as in messages
	Source  string // whose plans and keys these are; "" if nobody can tell
	Plans   []Plan
	Keys    []Key
	Notices []string // what its author should know

	// KeysOnly says that the file is about keys and names plans that are there.
	KeysOnly bool
}

// A Place is where something is written.
type Place struct {
	File string // "" for the file itself, else one that it includes
	Line int
}

// A Plan is a usage plan of a file.
type Plan struct {
	plan.Plan
	Place
}

// A Key is an API key of a file. What is nil, the file does not say.
type Key struct {
	Name        string        // "" for one that is known by its value
	Value       *apikey.Value // nil: one is made when the key is
	Plan        string        // "": not said, in a file of keys only
	Mapped      bool          // Plan was given for what the file calls it
	NewPlan     string        // of a key that is new and whose Plan is not said
	Description *string
	CustomerID  *string
	Enabled     *bool
	Expires     *time.Time
	Wrong       string // why it can't be imported, in a file of keys only
	Place
}

// Scope is what of a database a file is about.
type Scope struct {
	Source string        // what this file made
	Names  []string      // the keys of these names
	Hashes []apikey.Hash // the keys that these values open
}

// Scope returns what has to be known to apply f.
func (f *File) Scope() Scope {
	s := Scope{Source: f.Source}
	for _, k := range f.Keys {
		if k.Name != "" {
			s.Names = append(s.Names, k.Name)
		}
		if k.Value != nil {
			s.Hashes = append(s.Hashes, k.Value.Hash())
		}
	}
	return s
}

// A Mistake is what is wrong at a place.
type Mistake struct {
	Place
	Text string
}

// Mistakes is the error of a file that can't be used: every mistake in it, up
// to a number, each on a line of its own.
type Mistakes struct {
	File string
	List []Mistake // sorted by place
	More bool      // there are more
}

func (m *Mistakes) Error() string {
	lines := make([]string, 0, len(m.List)+1)
	for _, x := range m.List {
		lines = append(lines, fmt.Sprintf("%s:%d: %s", cmp.Or(x.File, m.File), x.Line, x.Text))
	}
	if m.More {
		lines = append(lines, m.File+": and more")
	}
	return strings.Join(lines, "\n")
}

// maxMistakes is how many are reported at once.
const maxMistakes = 20

// mistakes gathers what is wrong with a file.
type mistakes struct {
	list []Mistake
	more bool
}

func (m *mistakes) add(at Place, format string, args ...any) {
	if len(m.list) == maxMistakes {
		m.more = true
		return
	}
	if x := (Mistake{at, fmt.Sprintf(format, args...)}); !slices.Contains(m.list, x) { // seen by two ways
		m.list = append(m.list, x)
	}
}

func (m *mistakes) err(file string) error {
	if len(m.list) == 0 {
		return nil
	}
	slices.SortStableFunc(m.list, func(a, b Mistake) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return &Mistakes{File: file, List: m.list, More: m.more}
}

// checkVariety finds values that can be guessed. In a file of our own they are
// mistakes; keys of another system keep theirs, and its owner gets a notice.
func (d *decoder) checkVariety() {
	for _, k := range d.file.Keys {
		if k.Value == nil || k.Value.CheckVariety() == nil {
			continue
		}
		if d.own {
			d.add(k.Place, "a key's value can't be used: %v", k.Value.CheckVariety())
		} else {
			d.file.Notices = append(d.file.Notices, fmt.Sprintf("%s: the value of the key on %s repeats itself so much that it can be guessed: rotate it soon", d.file.Name, k.Place))
		}
	}
}

// checkKeys finds the keys that can't be told apart, or stand alone.
func checkKeys(m *mistakes, keys []Key) {
	names, values := map[string]Place{}, map[apikey.Hash]Place{}
	for _, k := range keys {
		if k.Name != "" {
			if err := checkName(k.Name); err != nil {
				m.add(k.Place, "%v", err)
				continue
			}
			if at, ok := names[k.Name]; ok {
				m.add(k.Place, "the key %q is on %s already: a key is known by its name and has one plan", k.Name, at)
				continue
			}
			names[k.Name] = k.Place
		}
		if k.Value == nil {
			if k.Name == "" {
				m.add(k.Place, "a key needs a name, or else a value, to be known by: add a name")
			}
			continue
		}
		hash := k.Value.Hash()
		if at, ok := values[hash]; ok {
			m.add(k.Place, "this key has the same value as the one on %s: a value opens one key only", at)
			continue
		}
		values[hash] = k.Place
	}
}

func (p Place) String() string {
	if p.File != "" {
		return fmt.Sprintf("line %d of %s", p.Line, p.File)
	}
	return fmt.Sprintf("line %d", p.Line)
}

// checkName reports why a key can't have a name. The error quotes it only if
// it can't be a value that stands in the wrong place.
func checkName(name string) error {
	if strings.HasPrefix(name, apikey.Prefix) {
		if _, err := apikey.Parse(name); err == nil {
			return errors.New("a key's value stands where its name belongs: write name: NAME and value: VALUE, and take another value if others have seen this file")
		}
	}
	if err := plan.CheckName(name); name != "" && err != nil { // a key may have none
		return fmt.Errorf("a key's name %w", err)
	}
	return nil
}
