package browser

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The pictures of the README are of the page as it is.
func TestPictures(t *testing.T) {
	t.Parallel()
	const root = "../../.."
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := Source(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, picture := range Pictures {
		b, err := os.ReadFile(filepath.Join(root, "docs", picture.Name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := png.Decode(bytes.NewReader(b)); err != nil {
			t.Errorf("%s: %v", picture.Name, err)
		}
		if got, err := SourceOf(b); got != want || err != nil {
			t.Errorf("docs/%s is of another page (%v): run make screenshots, and look at it", picture.Name, err)
		}
		if len(b) > 150_000 {
			t.Errorf("docs/%s has %d bytes, more than 150,000", picture.Name, len(b))
		}
		if !strings.Contains(string(readme), "docs/"+picture.Name) {
			t.Errorf("the README does not show docs/%s", picture.Name)
		}
	}
}
