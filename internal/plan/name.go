package plan

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName is the length of the longest name of a plan or a key, in code points.
const maxName = 256

// CheckName reports why a plan or a key can't have a name, in words that follow
// "the name". It is what every way to make one asks.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("must not be empty")
	case len(name) > maxName*utf8.UTFMax || utf8.RuneCountInString(name) > maxName:
		return fmt.Errorf("must not have more than %d characters", maxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("must be UTF-8: %q", name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("must not have control characters: %q", name)
	case strings.TrimSpace(name) != name:
		return fmt.Errorf("must not have spaces around it: %q", name)
	}
	return nil
}
