package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"helloapi/internal/backend"
	"helloapi/internal/changes"
)

// commands are the program's commands and flags.
type commands struct {
	Serve       serveCmd       `cmd:"" help:"Serve the API until SIGTERM, SIGHUP or Ctrl-C."`
	Migrate     migrateCmd     `cmd:"" help:"Bring the database to this program's schema."`
	Apply       applyCmd       `cmd:"" help:"Make plans and keys as a plans file or a serverless.yml says."`
	Import      importCmd      `cmd:"" help:"Take keys and counts along from another system."`
	Keys        keysCmd        `cmd:"" help:"Create, list, show, find, change, rotate and delete API keys."`
	Plans       plansCmd       `cmd:"" help:"List, show, create, change and delete usage plans."`
	Usage       usageCmd       `cmd:"" help:"Show what keys used, by window, day or month; grant more."`
	Greetings   greetingsCmd   `cmd:"" help:"List the names that were greeted most, and delete one."`
	Changes     changesCmd     `cmd:"" help:"List who changed which keys, plans and grants."`
	Certs       certsCmd       `cmd:"" help:"List TLS certificates, and have them renewed."`
	Backup      backupCmd      `cmd:"" help:"Copy a SQLite database to a file while it is served."`
	Invoke      invokeCmd      `cmd:"" help:"Call GET /hello. The key comes from $$HELLOAPI_KEY or standard input."`
	Man         manCmd         `cmd:"" help:"Print the manual page."`
	Completion  completionCmd  `cmd:"" help:"Print a script that completes commands, flags and names in a shell."`
	Complete    completeCmd    `cmd:"" hidden:"" help:"Print the names that a shell completes."`
	Healthcheck healthcheckCmd `cmd:"" help:"Succeed if the serving process on this machine is ready."`
	Version     versionCmd     `cmd:"" help:"Print the version."`
}

// database is the setting of every command that needs the database.
type database struct {
	URL string `name:"database-url" setting:"" default:"${database}" placeholder:"URL" help:"The database: sqlite:PATH or postgres://user:password@host/name."`
}

// use opens the database for f, and closes it. What f changes is recorded as
// made by the person who runs this.
func (d database) use(p *program, f func(backend.Database) error) (err error) {
	p.ctx = changes.WithActor(p.ctx, person(p.getenv))
	db, err := backend.OpenDatabase(p.ctx, d.URL)
	if err != nil && p.ctx.Err() != nil {
		return fmt.Errorf("%w: %w", errInterrupted, errNothingChanged)
	} else if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return f(db)
}

// output is the flag of every command that prints data or changes something.
type output struct {
	Output string `short:"o" enum:"table,json" default:"table" help:"How to print: table or json."`
}

// A program is one run, with what it may use of the world around it.
type program struct {
	ctx            context.Context
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// run is the program. It does what args say, and returns when that is done or
// ctx has ended.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) error {
	var (
		cmds    commands
		exited  bool // --help has been answered
		invalid []error
	)
	parser, err := newParser(&cmds,
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { exited = true }),
		kong.Resolvers(fromEnvironment(getenv, &invalid)),
	)
	if err != nil {
		return fmt.Errorf("commands: %w", err) // a mistake in the structs above
	}
	kctx, err := parser.Parse(asCommand(args))
	if exited {
		return nil
	}
	// Everything that is wrong, at once.
	if problems := errors.Join(append(invalid, err)...); problems != nil {
		var parse *kong.ParseError
		if errors.As(err, &parse) {
			kctx = parse.Context
		}
		return calledAs(getenv, errors.Join(problems, usageHint(kctx)))
	}
	err = kctx.Run(&program{ctx, getenv, stdin, stdout, stderr})
	if command := commandPath(kctx); backend.Forbidden(err) && command != "helloapi serve" {
		err = errors.Join(err, fmt.Errorf("the role in DATABASE_URL may not do this, the owner of the tables may: `%s …`", command))
	}
	return calledAs(getenv, err)
}

// A localError names commands as a person calls them where this program runs.
type localError struct {
	error
	command string
}

func (e localError) Error() string {
	return strings.ReplaceAll(e.error.Error(), "`helloapi ", "`"+e.command+" ")
}

func (e localError) Unwrap() error { return e.error }

// calledAs has the hints of err name the commands as HELLOAPI_COMMAND says.
func calledAs(getenv func(string) string, err error) error {
	if command := getenv("HELLOAPI_COMMAND"); command != "" && err != nil {
		return localError{err, command}
	}
	return err
}

// newParser returns what reads the command line.
func newParser(cmds *commands, more ...kong.Option) (*kong.Kong, error) {
	return kong.New(cmds, append(more,
		kong.Name("helloapi"),
		kong.Description("A self-hosted HTTP API with keys, usage plans and durable counts.\n\n"+
			"Every flag can be set in the environment too: --database-url is $DATABASE_URL."),
		kong.Vars{"database": backend.DefaultURL},
		kong.ValueFormatter(describe),
		kong.KindMapper(reflect.String, kong.MapperFunc(trimmed)),
		kong.PostBuild(withExamples),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))...)
}

// trimmed reads a text. At the ends of a flag, and of each entry of one that is
// a list, white space is a mistake that is easily made and hard to see: a
// newline at the end of a secret. Arguments are taken as they are.
func trimmed(ctx *kong.DecodeContext, target reflect.Value) error {
	var s string
	if err := ctx.Scan.PopValueInto("string", &s); err != nil {
		return err
	}
	if ctx.Value.Flag != nil {
		s = strings.TrimSpace(s)
	}
	target.SetString(s)
	return nil
}

// asCommand returns args with other common ways to ask for help and the version
// in place of the flag and the command.
func asCommand(args []string) []string {
	switch {
	case len(args) == 0:
		return []string{"--help"}
	case args[0] == "help":
		return append(slices.Clone(args[1:]), "--help")
	case args[0] == "--version":
		return append([]string{"version"}, args[1:]...)
	}
	return args
}

// usageHint says whose help has what was given in a wrong way.
func usageHint(kctx *kong.Context) error {
	return fmt.Errorf("`%s --help` shows what it takes", commandPath(kctx))
}

// commandPath is the command that was given, without its arguments: they may be
// secret.
func commandPath(kctx *kong.Context) string {
	command := "helloapi"
	if kctx != nil {
		for _, step := range kctx.Path {
			if step.Command != nil {
				command += " " + step.Command.Name
			}
		}
	}
	return command
}

// variable returns the name of the environment's twin of a flag: a setting of
// the service has the flag's own name in capitals, others HELLOAPI_ before it,
// and one whose name would be that of a secret has another.
func variable(flag *kong.Flag) string {
	if name := flag.Tag.Get("variable"); name != "" {
		return name
	}
	name := strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
	if flag.Tag.Has("setting") {
		return name
	}
	return "HELLOAPI_" + name
}

// describe is a flag's line in the help.
func describe(v *kong.Value) string {
	if v.Flag == nil || v.Flag.Name == "help" {
		return v.Help
	}
	help := v.Help
	if v.HasDefault && v.Default != "" && v.Flag.PlaceHolder != "" {
		help += fmt.Sprintf(" Default: %s.", v.Default)
	}
	return fmt.Sprintf("%s ($%s)", help, variable(v.Flag))
}

// formerVariables are what variables were called in earlier versions. One that
// is set is a mistake: to go on without it would print a table to a program.
var formerVariables = map[string]string{"HELLOAPI_OUTPUT": "HELLOAPI_FORMAT"}

// fromEnvironment takes flags that are not given from the environment. A value
// that does not fit is added to invalid, so that all are reported at once.
func fromEnvironment(getenv func(string) string, invalid *[]error) kong.Resolver {
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		if flag.Name == "help" {
			return nil, nil
		}
		name := variable(flag)
		value := strings.TrimSpace(getenv(name))
		if value == "" {
			if former := formerVariables[name]; former != "" && getenv(former) != "" {
				*invalid = append(*invalid, fmt.Errorf("%s is not read: set %s in its place", former, name))
			}
			return nil, nil
		}
		trial := reflect.New(flag.Target.Type()).Elem()
		err := flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: value})}, trial)
		if err == nil && flag.Enum != "" && !flag.EnumMap()[value] {
			err = fmt.Errorf("must be one of %s", flag.Enum)
		}
		if err != nil {
			*invalid = append(*invalid, fmt.Errorf("%s: %w", name, err))
			return nil, nil
		}
		return value, nil
	})
}
