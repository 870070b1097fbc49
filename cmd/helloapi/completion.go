package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/template"
	"time"

	"github.com/alecthomas/kong"

	"helloapi/internal/backend"
)

// The libraries that complete for kong keep processes and shells to themselves
// (they exit, and edit people's start-up files); a script that lists words
// does, and is made of the same model as the help.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (c *completionCmd) Run(p *program, app *kong.Kong) error {
	return completion(p.stdout, c.Shell, app.Model)
}

// completeCmd prints names for the scripts.
type completeCmd struct {
	database
	What string `arg:"" enum:"keys,plans" help:"keys or plans."`
}

// completeTimeout is how long a person who pressed Tab waits for the database.
const completeTimeout = 2 * time.Second

func (c *completeCmd) Run(p *program) error {
	ctx, cancel := context.WithTimeout(p.ctx, completeTimeout)
	defer cancel()
	within := *p
	within.ctx = ctx
	return c.use(&within, func(db backend.Database) error {
		var names []string
		if c.What == "plans" {
			plans, err := db.Plans(ctx)
			if err != nil {
				return err
			}
			for _, pl := range plans {
				names = append(names, pl.Name)
			}
		} else {
			keys, err := db.Keys(ctx)
			if err != nil {
				return err
			}
			for _, k := range keys {
				names = append(names, or(k.Name, k.ID))
			}
		}
		for _, name := range names {
			if visible(name) != name {
				continue // it can't be typed
			}
			if _, err := fmt.Fprintln(p.stdout, name); err != nil {
				return err
			}
		}
		return nil
	})
}

// A completed is a command, with the words that may follow it.
type completed struct {
	Path  string          // " keys create"; "" for the program itself
	Words []completedWord // commands, and values of arguments
	Flags []completedWord
	Names string // what its arguments name: "keys", "plans" or ""
	Enums []completedEnum
}

type completedWord struct{ Word, Help string }

// A completedEnum is a flag with a few values, or one that names something.
type completedEnum struct {
	Flags, Values []string
	Names         string
}

// completion writes the script for a shell.
func completion(w io.Writer, shell string, app *kong.Application) error {
	var all []completed
	var walk func(n *kong.Node, path string)
	walk = func(n *kong.Node, path string) {
		c := completed{Path: path}
		for _, child := range n.Children {
			if !child.Hidden {
				c.Words = append(c.Words, completedWord{child.Name, child.Help})
			}
		}
		for _, f := range n.Flags {
			if f.Hidden {
				continue
			}
			flags := []string{"--" + f.Name}
			if f.Short != 0 {
				flags = append(flags, "-"+string(f.Short))
			}
			c.Flags = append(c.Flags, completedWord{"--" + f.Name, f.Help})
			if f.Enum != "" {
				c.Enums = append(c.Enums, completedEnum{Flags: flags, Values: strings.Split(f.Enum, ",")})
			}
			if names := f.Tag.Get("complete"); names != "" {
				c.Enums = append(c.Enums, completedEnum{Flags: flags, Names: names})
			}
		}
		for _, arg := range n.Positional {
			c.Names += arg.Tag.Get("complete")
			if arg.Enum != "" {
				for _, v := range strings.Split(arg.Enum, ",") {
					c.Words = append(c.Words, completedWord{v, arg.Help})
				}
			}
		}
		all = append(all, c)
		for _, child := range n.Children {
			if !child.Hidden {
				walk(child, path+" "+child.Name)
			}
		}
	}
	walk(app.Node, "")
	if err := completionScripts.ExecuteTemplate(w, shell, all); err != nil {
		return fmt.Errorf("completion: %w", err)
	}
	return nil
}

var completionScripts = template.Must(template.New("").Funcs(template.FuncMap{
	"join":  strings.Join,
	"quote": func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" },
	// fish quotes with a backslash within quotes.
	"fishQuote": func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'" },
	// A sentence is enough beside a word.
	"brief": func(s string) string {
		s, _, _ = strings.Cut(s, ". ")
		return strings.TrimSuffix(s, ".")
	},
}).Parse(`
{{- define "bash" -}}
# Completion of helloapi for bash. To have it in every shell, put this in ~/.bashrc:
#   source <(helloapi completion bash)
_helloapi() {
    local at='' words='' names='' name word=${COMP_WORDS[COMP_CWORD]} i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$at ${COMP_WORDS[i]}" in
        {{- range .}}{{if .Path}}
        {{quote .Path}}) at={{quote .Path}} ;;{{end}}{{end}}
        esac
    done
    case "$at ${COMP_WORDS[COMP_CWORD - 1]}" in
    {{- range $c := .}}{{range .Enums}}{{$e := .}}{{range .Flags}}
    {{quote (printf "%s %s" $c.Path .)}}) {{with $e.Names}}names={{.}}{{else}}words={{quote (join $e.Values " ")}}{{end}} ;;{{end}}{{end}}{{end}}
    esac
    if [ -z "$words$names" ]; then
        case "$at" in
        {{- range .}}
        {{quote .Path}}) case "$word" in
            -*) words='{{range $i, $w := .Flags}}{{if $i}} {{end}}{{$w.Word}}{{end}}' ;;
            *) words='{{range $i, $w := .Words}}{{if $i}} {{end}}{{$w.Word}}{{end}}' names={{.Names}} ;;
            esac ;;{{end}}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [ -z "$names" ] || while IFS= read -r name; do
        if [[ $name == "$word"* ]]; then COMPREPLY+=("$(printf %q "$name")"); fi
    done < <("${COMP_WORDS[0]}" complete "$names" 2>/dev/null)
}
complete -o default -F _helloapi helloapi
{{end}}
{{- define "zshNames"}}${(f)"$("${words[1]}" complete {{.}} 2>/dev/null)"}{{end}}
{{- define "zsh" -}}
#compdef helloapi
# Completion of helloapi for zsh. To have it in every shell, put this in ~/.zshrc, after compinit:
#   source <(helloapi completion zsh)
_helloapi() {
    local at='' word
    local -a found
    for word in "${(@)words[2,CURRENT-1]}"; do
        case "$at $word" in
        {{- range .}}{{if .Path}}
        ({{quote .Path}}) at={{quote .Path}} ;;{{end}}{{end}}
        esac
    done
    case "$at ${words[CURRENT-1]}" in
    {{- range $c := .}}{{range .Enums}}{{$e := .}}{{range .Flags}}
    ({{quote (printf "%s %s" $c.Path .)}}) compadd -- {{with $e.Names}}{{template "zshNames" .}}{{else}}{{join $e.Values " "}}{{end}}; return ;;{{end}}{{end}}{{end}}
    esac
    case "$at" in
    {{- range .}}
    ({{quote .Path}}) case "$PREFIX" in
        (-*) found=({{range .Flags}} {{quote (printf "%s:%s" .Word (brief .Help))}}{{end}} ) ;;
        (*) {{with .Names}}compadd -- {{template "zshNames" .}}; return; {{end}}found=({{range .Words}} {{quote (printf "%s:%s" .Word (brief .Help))}}{{end}} ) ;;
        esac ;;{{end}}
    esac
    (( $#found )) && _describe helloapi found || _files
}
compdef _helloapi helloapi
{{end}}
{{- define "fishNames"}}'(__helloapi_names {{.}})'{{end}}
{{- define "fish" -}}
# Completion of helloapi for fish. To have it in every shell:
#   helloapi completion fish > ~/.config/fish/completions/helloapi.fish
function __helloapi_at
    set -l at ''
    for word in (commandline -opc)[2..-1]
        switch "$at $word"
            case{{range .}}{{if .Path}} {{fishQuote .Path}}{{end}}{{end}}
                set at "$at $word"
        end
    end
    test "$at" = "$argv[1]"
end
function __helloapi_names
    set -l words (commandline -opc)
    $words[1] complete $argv[1] 2>/dev/null
end
{{range $c := .}}{{range .Words -}}
complete -c helloapi -n {{fishQuote (printf "__helloapi_at %s" (fishQuote $c.Path))}} -f -a {{.Word}} -d {{fishQuote (brief .Help)}}
{{end}}{{with .Names -}}
complete -c helloapi -n {{fishQuote (printf "__helloapi_at %s" (fishQuote $c.Path))}} -f -a {{template "fishNames" .}}
{{end}}{{range .Flags -}}
complete -c helloapi -n {{fishQuote (printf "__helloapi_at %s" (fishQuote $c.Path))}} -l {{slice .Word 2}} -d {{fishQuote (brief .Help)}}
{{end}}{{range .Enums}}{{$e := .}}{{range .Flags}}{{if eq (slice . 0 2) "--" -}}
complete -c helloapi -n {{fishQuote (printf "__helloapi_at %s" (fishQuote $c.Path))}} -x -l {{slice . 2}} -a {{with $e.Names}}{{template "fishNames" .}}{{else}}{{fishQuote (join $e.Values " ")}}{{end}}
{{end}}{{end}}{{end}}{{end}}
{{- end}}`))
