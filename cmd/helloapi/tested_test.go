package main

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The tests that docs/tested.md names are there.
func TestDocsTests(t *testing.T) {
	t.Parallel()
	var code strings.Builder
	for _, dir := range []string{"../../cmd", "../../internal", "../../migrations"} {
		err := filepath.WalkDir(dir, func(file string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(file) != ".go" {
				return err
			}
			text, err := os.ReadFile(file)
			code.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	doc, err := os.ReadFile("../../docs/tested.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z]+)([A-Za-z/*]*)`").FindAllStringSubmatch(string(doc), -1)
	if len(names) < 80 {
		t.Fatalf("only %d tests are named", len(names))
	}
	for _, n := range names {
		if !strings.Contains(code.String(), "func "+n[1]+"(") {
			t.Errorf("there is no test %s", n[1])
		}
		if n[2] != "" && !strings.Contains(code.String(), `"`+path.Base(n[2])+`"`) {
			t.Errorf("%s has no case %s", n[1], n[2])
		}
	}
}
