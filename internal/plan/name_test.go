package plan_test

import (
	"strings"
	"testing"

	"helloapi/internal/plan"
)

func TestCheckName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "it's a name", "日本語", "=1+1", strings.Repeat("ü", 256)} {
		if err := plan.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"": "empty", " a": "spaces around", "a\u00a0": "spaces around", "\n": "control", "a\x1b[2J": "control", "a\x7f": "control", "a\u0085b": "control",
		"a\xff": "UTF-8", strings.Repeat("ü", 257): "256 characters", strings.Repeat("a", 1<<20): "256 characters",
	} {
		if err := plan.CheckName(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", name, err, want)
		}
	}
}
